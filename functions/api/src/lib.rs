//! The JSON API behind API Gateway, authenticated by ID tokens.
