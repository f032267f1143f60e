"""What keeps files from running code: DIALS unpickles what it can't otherwise read, and PHIL evaluates numbers."""
