//! Which threads give way to others.

/// How much nicer than the others a thread is that works in the background. Where processors are short
/// it gets a tenth of another thread's share, and gives way at once to one that wakes; where they are
/// not it loses nothing. It must not be starved: ordering waits for it in the end.
#[cfg(target_os = "linux")]
const NICER: i32 = 10;

/// Lets the calling thread give way to those that order and execute, for as long as it lives. Elsewhere
/// than on Linux priorities are those of whole processes, and nothing happens.
pub(crate) fn work_in_background() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICER) {
        tracing::debug!(%error, "a thread keeps its priority");
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_the_background_gives_way_and_the_others_do_not() {
        let own = || rustix::process::getpriority_process(None).unwrap();
        let before = own();
        let there = std::thread::spawn(move || {
            work_in_background();
            own()
        });
        assert_eq!(there.join().unwrap(), (before + NICER).min(19));
        assert_eq!(own(), before);
    }
}
