"""Integrations of the client with agent frameworks, model APIs and the Model Context Protocol.

Import the module of an integration by its name. It needs only the packages of its own extra, such as
`pip install '.[mcp]'` in a checkout.
"""
