//! The OAuth redirect URL: begin sets the state cookie, finish turns the code into a token.
