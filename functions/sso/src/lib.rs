//! OpenID Connect login to Multipass.
