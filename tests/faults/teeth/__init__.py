"""The teeth of the harness (reliability.md 2.7): bugs that we make ourselves, each a patch to a copy of the tree, which it must find."""
