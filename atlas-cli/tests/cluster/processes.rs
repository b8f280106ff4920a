//! Clusters of processes in temporary directories. Nothing here waits for a fixed time: what is
//! waited for can be seen, and has a deadline.

use atlas_smr::ProtocolRegistry;
use atlas_smr::config::ClientConfig;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// How long anything may take on a machine that is busy with other tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How long to leave the processor to what is waited for.
pub(crate) const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// Where a test's random numbers begin: `ATLAS_SEED`, or another place each time.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("ATLAS_SEED").ok();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    given.map_or(now.as_nanos() as u64, |seed| seed.parse().unwrap())
}

/// The command under test.
pub(crate) fn atlas() -> Command {
    Command::new(env!("CARGO_BIN_EXE_atlas"))
}

/// Runs a command to its end: its exit code, and all that it printed.
pub(crate) fn run(command: &mut Command) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat());
    (status.code().unwrap(), text.unwrap())
}

/// The first of `count` ports in a row that are free. They lie below those that the system hands out
/// for outgoing connections, so that a port stays free while its replica is down.
pub(crate) fn free_ports(count: u16) -> u16 {
    const LOWEST: u16 = 10_000;
    const SPAN: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let of_this_process = (std::process::id() % 1000) as u16 * 20;
    for _ in 0..1000 {
        let offset = of_this_process.wrapping_add(NEXT.fetch_add(count, Ordering::Relaxed));
        let base = LOWEST + offset % SPAN;
        let bind = |port| TcpListener::bind(("127.0.0.1", port));
        if (base..base + count).map(bind).all(|bound| bound.is_ok()) {
            return base;
        }
    }
    panic!("no {count} free ports in a row");
}

/// Tries until there is something, and says what was waited for when there is not.
pub(crate) fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(BETWEEN_LOOKS);
    }
}

/// Replicas, each a process. They are killed when this goes.
pub(crate) struct Cluster {
    dir: TempDir,
    ports: u16,
    replicas: Vec<Option<Child>>,
}

impl Cluster {
    /// The files of a cluster of four under PBFT, by `atlas init`.
    pub(crate) fn init(more: &[&str]) -> Self {
        Self::init_with("pbft", 4, more)
    }

    fn init_with(protocol: &str, replicas: usize, more: &[&str]) -> Self {
        Self::make(&["init".as_ref()], protocol, replicas, more)
    }

    /// A new cluster that begins with the state of a backup.
    pub(crate) fn restore(backup: &Path, protocol: &str, replicas: usize) -> Self {
        let restore = ["restore".as_ref(), backup.as_os_str()];
        Self::make(&restore, protocol, replicas, &[])
    }

    fn make(command: &[&OsStr], protocol: &str, replicas: usize, more: &[&str]) -> Self {
        let dir = TempDir::with_prefix("atlas-test-").unwrap();
        let cluster = dir.path().join("cluster");
        let n = u16::try_from(replicas).unwrap();
        let ports = free_ports(2 * n);
        let made = atlas()
            .args(command)
            .args(["--replicas", &n.to_string()])
            .args(["--protocol", protocol, "--dir"])
            .arg(&cluster)
            .args(["--base-port", &ports.to_string()])
            .args(["--admin-base-port", &(ports + n).to_string()])
            .args(more)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let replicas = (0..n).map(|_| None).collect();
        Self {
            dir,
            ports,
            replicas,
        }
    }

    /// As [`Self::init`], and starts all four.
    pub(crate) fn start(more: &[&str]) -> Self {
        let mut cluster = Self::init(more);
        (0..4).for_each(|replica| cluster.start_replica(replica));
        cluster
    }

    /// As many replicas under this protocol, all started.
    pub(crate) fn start_with(protocol: &str, replicas: usize, more: &[&str]) -> Self {
        let mut cluster = Self::init_with(protocol, replicas, more);
        (0..replicas).for_each(|replica| cluster.start_replica(replica));
        cluster
    }

    /// The process of a running replica.
    pub(crate) fn pid(&self, replica: usize) -> u32 {
        self.replicas[replica].as_ref().expect("it runs").id()
    }

    /// A file or directory of the cluster.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("cluster").join(name)
    }

    /// Where a replica listens.
    pub(crate) fn address(&self, replica: u16) -> String {
        format!("127.0.0.1:{}", self.ports + replica)
    }

    /// Where a replica serves its status.
    pub(crate) fn admin_address(&self, replica: u16) -> String {
        format!(
            "127.0.0.1:{}",
            self.ports + self.replicas.len() as u16 + replica
        )
    }

    /// What a replica answers to `GET path` on its admin address.
    pub(crate) fn page(&self, replica: u16, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin_address(replica)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: replica\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
        body.unwrap_or_else(|| panic!("no body in {answer:?}"))
            .to_owned()
    }

    /// Starts one replica and returns when it says that it is ready.
    pub(crate) fn start_replica(&mut self, replica: usize) {
        let mut child = atlas()
            .arg("start")
            .arg(self.path(&format!("replica-{replica}")))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        self.replicas[replica] = Some(child);
        let (lines, line) = channel();
        std::thread::spawn(move || {
            for text in BufReader::new(output).lines().map_while(Result::ok) {
                // The test reads the first line only; the rest must still be drained.
                lines.send(text).ok();
            }
        });
        let line = line.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|_| panic!("replica {replica} does not say it is ready"));
        let expected = format!("replica {replica} ready");
        assert!(line.starts_with(&expected), "{line}");
    }

    /// As [`Self::start_replica`], but one that does not start gives what it says; one that does gives
    /// its notes.
    pub(crate) fn try_start_replica(&mut self, replica: usize) -> Result<String, String> {
        let log = self.path(&format!("replica-{replica}.log"));
        let output = File::create(&log).unwrap();
        let mut child = atlas()
            .arg("start")
            .arg(self.path(&format!("replica-{replica}")))
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        let ready = format!("replica {replica} ready");
        let outcome = wait_for("a replica that serves or says why not", || {
            let ended = child.try_wait().unwrap();
            let said = fs::read_to_string(&log).unwrap();
            match said.split_once(&ready) {
                Some((notes, _)) => Some(Ok(notes.to_owned())),
                None => ended.map(|_| Err(said)),
            }
        });
        if outcome.is_ok() {
            self.replicas[replica] = Some(child);
        }
        outcome
    }

    /// `kill -9` to each of these, and only then waits for their ends.
    pub(crate) fn kill_9(&mut self, replicas: &[usize]) {
        let mut killed: Vec<Child> = replicas
            .iter()
            .map(|replica| self.replicas[*replica].take().expect("it runs"))
            .collect();
        killed.iter_mut().for_each(|child| child.kill().unwrap());
        for child in &mut killed {
            child.wait().unwrap();
        }
    }

    /// `atlas kv` with these arguments, not yet run.
    pub(crate) fn kv(&self, arguments: &[&str]) -> Command {
        let mut command = atlas();
        command.args(["kv", "--client"]).arg(self.path("client-0"));
        command.args(arguments);
        command
    }

    /// `atlas kv import` of these JSON Lines.
    pub(crate) fn import(&self, lines: &str) {
        let mut import = self
            .kv(&["import", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = import.stdin.take().unwrap();
        input.write_all(lines.as_bytes()).unwrap();
        drop(input);
        assert!(import.wait().unwrap().success());
    }

    /// Everything in the store, as `atlas kv export` writes it.
    pub(crate) fn export(&self) -> String {
        let exported = self.kv(&["export", "-"]).output().unwrap();
        assert!(exported.status.success(), "{exported:?}");
        String::from_utf8(exported.stdout).unwrap()
    }

    /// A client's configuration, for calls from the test itself.
    pub(crate) fn client_config(&self) -> ClientConfig {
        ClientConfig::load(&self.path("client-0"), &ProtocolRegistry::default().known()).unwrap()
    }

    /// `atlas status --json`.
    pub(crate) fn status(&self) -> Vec<Value> {
        status(&self.path("client-0"))
    }

    /// Waits until no replica counts as failed because it has forgotten its votes.
    pub(crate) fn wait_until_all_vote(&self) {
        wait_for("all replicas with a vote", || {
            let replicas = self.status();
            let votes = |r: &Value| r["forgot_votes"] == false;
            replicas.iter().all(votes).then_some(())
        });
    }

    /// Waits until all have executed the same and catch up with nothing; their state digests
    /// must then be the same.
    pub(crate) fn wait_until_agreed(&self) {
        wait_for("all replicas at the same decision", || {
            let replicas = self.status();
            let same = |field: &str| replicas.iter().all(|r| r[field] == replicas[0][field]);
            let settled = replicas.iter().all(|r| r["reachable"] == true)
                && replicas.iter().all(|r| r["catching_up"] == false)
                && same("executed");
            assert!(!settled || same("state_digest"), "{replicas:#?}");
            settled.then_some(())
        });
    }
}

/// `atlas status --json` for the cluster of this client.
pub(crate) fn status(client: &Path) -> Vec<Value> {
    let asked = atlas()
        .args(["status", "--json", "--client"])
        .arg(client)
        .output()
        .unwrap();
    serde_json::from_slice(&asked.stdout).unwrap_or_else(|_| panic!("{asked:?}"))
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.replicas.iter_mut().flatten() {
            // One that has ended already needs no more.
            child.kill().and_then(|()| child.wait().map(drop)).ok();
        }
    }
}
