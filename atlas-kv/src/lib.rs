//! A replicated key-value store.
