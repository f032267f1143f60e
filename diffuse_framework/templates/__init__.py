"""What `diffuse.new_plugin` copies: one small working plugin per stage, and the files around it.

The words ``template`` and ``Template`` are replaced by the name of the new plugin.
"""
