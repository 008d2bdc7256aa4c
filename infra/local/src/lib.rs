//! The whole system on one machine: AWS, Shopify and Lambda, embedded.
