"""Session notes where agents are at home: in the frameworks and protocols they are built with.

A module each, so that none needs the packages of another. What a module needs beside this client is the extra of the
same name: `pip install '.[mcp]' in its checkout`.
"""
