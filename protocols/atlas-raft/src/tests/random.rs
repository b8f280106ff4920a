#[cfg(feature = "seeded-bugs")] thread_local! { pub(super) static BUG: std::cell::Cell<Option<crate::bugs::SeededBug>> = const { std::cell::Cell::new(None) }; }
