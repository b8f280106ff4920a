//! What is told of replicas that came back.

use super::super::Arguments;
use super::super::callers::Seen;
use super::super::timed::Target;
use super::super::watch::Standing;
use super::mib;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What rejoining from nothing must reach of the lesser probe.
const SHARE: f64 = 0.4;

/// How long a state took to come, by looks at the replica's status.
#[derive(Debug, Default)]
pub(super) struct Transfer {
    /// The last look before anything was there.
    began: Duration,
    begun: bool,
    /// The first look after all of it was durable.
    ended: Option<Duration>,
}

impl Transfer {
    /// A look at the replica that was begun and answered at these times: what it showed was so at some time
    /// between them.
    pub(super) fn look(&mut self, asked: Duration, answered: Duration, there: Option<&Standing>) {
        let Some(there) = there else { return };
        self.begun |= there.fetched_bytes > 0;
        if !self.begun {
            self.began = asked;
        } else if there.states_fetched > 0 {
            self.ended.get_or_insert(answered);
        }
    }

    /// When it began, and how long it took.
    fn seconds(&self) -> Option<(f64, f64)> {
        let took = self.ended?.saturating_sub(self.began);
        Some((self.began.as_secs_f64(), took.as_secs_f64()))
    }
}

/// One return.
#[derive(Debug, Serialize)]
pub(super) struct Return {
    /// From the start of the process until it serves, with nothing left to fetch.
    seconds: f64,
    /// Bytes of parts and pages that it fetched.
    fetched_bytes: u64,
    /// Decisions that it fetched.
    decisions_fetched: u64,
    /// States that it took over from peers.
    states_installed: u64,
    /// Fetched bytes in percent of the state.
    fetched_percent: f64,
    /// Bytes of state fetched per second, from the start until it served.
    bytes_per_second: f64,
    /// From the start of the process until before the first part came; `None` where no state was fetched.
    transfer_began_seconds: Option<f64>,
    /// From before the first part came until all of the state was durable; `None` where no state was
    /// fetched.
    transfer_seconds: Option<f64>,
    /// Bytes of state fetched per second in that time.
    transfer_bytes_per_second: Option<f64>,
}

impl Return {
    pub(super) fn new(
        took: Duration,
        there: &Standing,
        transfer: &Transfer,
        state_bytes: u64,
    ) -> Self {
        let (seconds, fetched) = (took.as_secs_f64(), there.fetched_bytes as f64);
        let (transfer_began_seconds, transfer_seconds) = transfer.seconds().unzip();
        Self {
            seconds,
            fetched_bytes: there.fetched_bytes,
            decisions_fetched: there.decisions_fetched,
            states_installed: there.states_installed,
            fetched_percent: fetched * 100.0 / state_bytes.max(1) as f64,
            bytes_per_second: fetched / seconds,
            transfer_began_seconds,
            transfer_seconds,
            transfer_bytes_per_second: transfer_seconds.map(|seconds| fetched / seconds),
        }
    }
}

/// All returns of a run.
#[derive(Debug, Serialize)]
pub(super) struct Returns {
    pub(super) after_away: Return,
    /// With an empty disk, while the load went on.
    pub(super) under_load: Return,
    /// With an empty disk, after the load was stopped.
    pub(super) from_nothing: Return,
}

/// What the machine carries, with nothing else running.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probes {
    pub(super) tls: f64,
    pub(super) disk: f64,
}

#[derive(Debug, Serialize)]
pub(in crate::bench) struct RejoinReport {
    protocol: String,
    replicas: usize,
    durability: String,
    cores: usize,
    seed: u64,
    state: String,
    entries: u64,
    touched_entries: u64,
    state_bytes: u64,
    rate: Option<f64>,
    peak_ops_per_second: Option<f64>,
    pub(in crate::bench) operations: usize,
    pub(in crate::bench) errors: u64,
    away_seconds: u64,
    #[serde(flatten)]
    returns: Returns,
    tls_bytes_per_second: f64,
    disk_bytes_per_second: f64,
    /// The rate of the transfer without load by the lesser of the two above, which were measured without
    /// load too.
    share: f64,
    /// The same from the start of the process until it served.
    share_until_served: f64,
    /// The rate of the transfer under load by the lesser of the two above.
    share_under_load: f64,
}

impl RejoinReport {
    pub(super) fn new(
        arguments: &Arguments,
        (replicas, state_bytes): (usize, u64),
        seed: u64,
        target: Target,
        seen: &Seen,
        returns: Returns,
        probes: Probes,
    ) -> Self {
        let options = &arguments.options;
        let state = options.state.map(|kind| kind.to_string());
        let lesser = probes.tls.min(probes.disk);
        let share = |rate: Option<f64>| rate.unwrap_or_default() / lesser;
        Self {
            protocol: arguments.protocol.clone(),
            replicas,
            durability: arguments.durability.to_string(),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            seed,
            state: state.unwrap_or_default(),
            entries: options.state_entries,
            touched_entries: options.touched_entries(),
            state_bytes,
            rate: target.rate,
            peak_ops_per_second: target.peak,
            operations: seen.samples.len(),
            errors: seen.errors,
            away_seconds: options.away_seconds,
            share: share(returns.from_nothing.transfer_bytes_per_second),
            share_until_served: share(Some(returns.from_nothing.bytes_per_second)),
            share_under_load: share(returns.under_load.transfer_bytes_per_second),
            returns,
            tls_bytes_per_second: probes.tls,
            disk_bytes_per_second: probes.disk,
        }
    }
}

impl fmt::Display for Return {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "back in {:.1} s, {:.1} MiB of state fetched ({:.2} %), {} decisions fetched, {} states \
             taken over, {:.0} MiB/s",
            self.seconds,
            mib(self.fetched_bytes as f64),
            self.fetched_percent,
            self.decisions_fetched,
            self.states_installed,
            mib(self.bytes_per_second)
        )?;
        if let (Some(began), Some(seconds), Some(rate)) = (
            self.transfer_began_seconds,
            self.transfer_seconds,
            self.transfer_bytes_per_second,
        ) {
            let rate = mib(rate);
            write!(
                f,
                "; the first part came after {began:.2} s, and all was durable {seconds:.2} s later, {rate:.0} \
                 MiB/s"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for RejoinReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} replicas as processes, TLS, durability {}, {} cores, seed {}",
            self.protocol, self.replicas, self.durability, self.cores, self.seed
        )?;
        writeln!(
            f,
            "a {} state of {} entries, {:.0} MiB, of which {} are overwritten meanwhile",
            self.state,
            self.entries,
            mib(self.state_bytes as f64),
            self.touched_entries
        )?;
        let returns = &self.returns;
        writeln!(
            f,
            "after {} s away: {}",
            self.away_seconds, returns.after_away
        )?;
        writeln!(
            f,
            "with an empty disk, under the load: {}",
            returns.under_load
        )?;
        writeln!(
            f,
            "with an empty disk, without load: {}",
            returns.from_nothing
        )?;
        writeln!(
            f,
            "the transfer without load is {:.0} % (wanted: {:.0} %) of the lesser of TLS ({:.0} MiB/s) and \
             disk ({:.0} MiB/s), {:.0} % from the start of the process until it served; the transfer under \
             load is {:.0} %",
            self.share * 100.0,
            SHARE * 100.0,
            mib(self.tls_bytes_per_second),
            mib(self.disk_bytes_per_second),
            self.share_until_served * 100.0,
            self.share_under_load * 100.0
        )?;
        writeln!(f, "{} operations, {} errors", self.operations, self.errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_takes_from_before_its_first_part_until_it_is_seen_to_be_durable() {
        let mut transfer = Transfer::default();
        let at = Duration::from_millis;
        let mut look = |asked, fetched_bytes, states_fetched| {
            let there = Standing {
                fetched_bytes,
                states_fetched,
                ..Standing::default()
            };
            transfer.look(at(asked), at(asked + 3), Some(&there));
        };
        look(100, 0, 0);
        look(150, 0, 0);
        look(200, 7, 0);
        look(250, 90, 0);
        look(300, 99, 1);
        look(350, 99, 1);
        assert_eq!(transfer.seconds(), Some((0.15, 0.153)));
        transfer.look(at(400), at(401), None);
        assert_eq!(transfer.seconds(), Some((0.15, 0.153)));
        assert_eq!(Transfer::default().seconds(), None);
    }
}
