//! What an operator can see of a replica.
