"""What a new local stack shows: the programme of 2017, carried on to today, and a lived-in year played through the public commands."""
