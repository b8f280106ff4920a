//! A panic inside the simulated system is a finding, not the end of the campaign.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// `Some` while a run is being watched; holds the message of its panic.
    static WATCHED: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs `run` and gives what it panicked with, and where, if it did.
///
/// # Errors
/// The panic's message and place.
pub(crate) fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    HOOK.call_once(install);
    WATCHED.with(|watched| *watched.borrow_mut() = Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(run));
    let message = WATCHED.with(|watched| watched.borrow_mut().take());
    result.map_err(|_payload| message.unwrap_or_default())
}

/// Keeps the message where a run is watched, and prints it as before elsewhere.
fn install() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let kept = WATCHED.with(|watched| match &mut *watched.borrow_mut() {
            Some(message) => {
                *message = info.to_string();
                true
            }
            None => false,
        });
        if !kept {
            before(info);
        }
    }));
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_panic_becomes_a_message_with_its_place() {
        assert_eq!(super::catch(|| 5), Ok(5));
        let message = super::catch(|| panic!("seven")).unwrap_err();
        assert!(
            message.contains("seven") && message.contains("panics.rs"),
            "{message}"
        );
    }
}
