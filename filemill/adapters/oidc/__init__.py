"""OpenID Connect: providers that sign people in. Authlib has the protocol, joserfc the signatures."""
