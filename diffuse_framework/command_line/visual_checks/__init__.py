"""Visual checks: commands that show one step at a time, in pictures and in questions with answers."""
