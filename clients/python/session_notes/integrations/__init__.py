"""Integrations with agent frameworks, model APIs and the Model Context Protocol.

Import each integration by its module name. It needs only the packages of its own extra, for example
`pip install '.[mcp]'` in a checkout.
"""
