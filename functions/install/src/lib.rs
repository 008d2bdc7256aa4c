//! The App URL: opens the app, exchanges an ID token, or starts OAuth.
