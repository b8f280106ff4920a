//! The options of runs with a large state, an open loop or a rejoining replica.

use super::Arguments;
use super::pace::{Arrivals, Rate};
use super::table::{StateKind, VALUE_BYTES_MAX};
use anyhow::{Result, bail};

/// Each call that may be open is a task of its own.
const OPEN_MAX: usize = 1 << 16;

#[derive(clap::Args, Clone, Debug)]
pub(super) struct Options {
    /// Overwrite entries of a table instead of the echo, with the table kept as such a state
    #[arg(long, value_name = "KIND", conflicts_with_all = ["payload_bytes", "reply_bytes"])]
    pub(super) state: Option<StateKind>,
    /// Entries of the table, with keys of 16 B; it is filled before anything is measured
    #[arg(
        long,
        default_value_t = 4_000_000,
        requires = "state",
        value_name = "N"
    )]
    pub(super) state_entries: u64,
    /// The size of an entry's value
    #[arg(long, default_value_t = 240, requires = "state", value_name = "BYTES")]
    pub(super) value_bytes: u32,
    /// Overwrite only this share of the table, entries that are neighbours
    #[arg(
        long,
        default_value_t = 100.0,
        requires = "state",
        value_name = "PERCENT"
    )]
    pub(super) touch_percent: f64,
    /// Open loop: begin so many calls per second, whether or not earlier ones are answered; `half`: of
    /// what a closed loop reaches first. Latency counts from when a call was to begin
    #[arg(long, value_name = "OPS|half")]
    pub(super) rate: Option<Rate>,
    /// How many calls a client may have open in an open loop; what comes beyond begins late, and is
    /// counted
    #[arg(long, default_value_t = 8192, requires = "rate", value_name = "N")]
    pub(super) open_max: usize,
    /// How the calls of an open loop are spaced
    #[arg(long, default_value_t = Arrivals::Poisson, requires = "rate")]
    pub(super) arrivals: Arrivals,
    /// The seed of all random choices; by default another one each time
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Decisions between two checkpoints; the default is the cluster file's
    #[arg(long, value_name = "DECISIONS")]
    pub(super) checkpoint_interval: Option<u64>,
    /// Measure on until so many checkpoints were taken, from their decision until all replicas have
    /// them certified
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(super) checkpoints: usize,
    /// Also print the figures of every second
    #[arg(long)]
    pub(super) timeline: bool,
    /// Kill a replica, start it again, kill it, and start it with an empty disk; measure what it
    /// fetches and how fast
    #[arg(long, requires = "state", conflicts_with_all = ["in_process", "checkpoints"])]
    pub(super) rejoin: bool,
    /// How long the replica is away
    #[arg(
        long,
        default_value_t = 60,
        requires = "rejoin",
        value_name = "SECONDS"
    )]
    pub(super) away_seconds: u64,
}

impl Options {
    /// Whether a run is one with checkpoints told apart, rather than the plain closed loop.
    pub(super) const fn timed(&self) -> bool {
        self.state.is_some() || self.rate.is_some()
    }

    pub(super) fn check(&self, arguments: &Arguments) -> Result<()> {
        if self.state_entries == 0 || self.state_entries > 1 << 40 {
            bail!("--state-entries must be from 1 to 2^40");
        }
        if !(8..=VALUE_BYTES_MAX).contains(&self.value_bytes) {
            bail!("--value-bytes must be from 8 to {VALUE_BYTES_MAX}");
        }
        if !(0.0..=100.0).contains(&self.touch_percent) {
            bail!("--touch-percent must be from 0 to 100");
        }
        if self.timed() && arguments.seconds > 3600 {
            bail!(
                "--seconds must be at most 3600 with --state or --rate: every call is remembered"
            );
        }
        if !(1..=OPEN_MAX).contains(&self.open_max) {
            bail!("--open-max must be from 1 to {OPEN_MAX}");
        }
        if self
            .checkpoint_interval
            .is_some_and(|interval| interval == 0)
        {
            bail!("--checkpoint-interval must be at least 1");
        }
        if !self.timed() && self.seed.is_some() {
            bail!("--seed makes no difference without --state or --rate");
        }
        if self.timeline && (!self.timed() || self.rejoin) {
            bail!("--timeline needs --state or --rate, and says nothing with --rejoin");
        }
        Ok(())
    }

    /// How many entries are overwritten, at least one.
    pub(super) fn touched_entries(&self) -> u64 {
        let share = self.state_entries as f64 * self.touch_percent / 100.0;
        (share.ceil() as u64).clamp(1, self.state_entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        bench: Arguments,
    }

    fn parsed(line: &str) -> Result<Arguments> {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        let arguments = Command::try_parse_from(words)?.bench;
        arguments.options.check(&arguments)?;
        Ok(arguments)
    }

    #[test]
    fn options_that_make_no_sense_together_are_refused() {
        let wrong = [
            ("--state divisible --payload-bytes 20", "--payload-bytes"),
            ("--state monolithic --reply-bytes 20", "--reply-bytes"),
            ("--state-entries 10", "--state"),
            ("--value-bytes 10", "--state"),
            ("--touch-percent 1", "--state"),
            ("--arrivals even", "--rate"),
            ("--rejoin", "--state"),
            ("--state divisible --rejoin --in-process", "--in-process"),
            ("--state divisible --away-seconds 3", "--rejoin"),
            ("--seed 1", "--seed"),
            ("--state divisible --state-entries 0", "--state-entries"),
            ("--state divisible --value-bytes 7", "--value-bytes"),
            ("--state divisible --touch-percent 101", "--touch-percent"),
            ("--rate 0", "half"),
            ("--open-max 10", "--rate"),
            ("--rate 10 --open-max 0", "--open-max"),
            ("--rate 10 --open-max 65537", "--open-max"),
            ("--rate 10 --checkpoint-interval 0", "--checkpoint-interval"),
            ("--rate 10 --seconds 4000", "--seconds"),
            ("--timeline", "--timeline"),
            ("--state divisible --rejoin --timeline", "--timeline"),
        ];
        for (line, named) in wrong {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains(named), "{line}: {error}");
        }
    }

    #[test]
    fn the_plain_benchmark_needs_none_of_them() {
        assert!(!parsed("").unwrap().options.timed());
        let full = "--state divisible --state-entries 1000 --touch-percent 1 --rate half --seed 3 \
                    --checkpoint-interval 100";
        let options = parsed(full).unwrap().options;
        assert!(options.timed());
        assert_eq!(options.touched_entries(), 10);
        let few = parsed("--state divisible --state-entries 10 --touch-percent 0").unwrap();
        assert_eq!(few.options.touched_entries(), 1);
    }
}
