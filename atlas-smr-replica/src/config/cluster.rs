//! A cluster's configuration, checked.

use super::address::Address;
use super::cluster_file::{
    CLIENTS_EXPECTED, ClientEntry, ClientsEntry, ClusterFile, DESCRIPTIONS, MemberEntry,
};
use super::error::ConfigError;
use super::source::Source;
use super::timeouts::Timeouts;
use super::{KnownProtocol, keys};
use atlas_common::crypto::{PublicKey, Verifier};
use atlas_common::digest::DigestBuilder;
use atlas_common::quorum::{FaultModel, Quorums};
use atlas_common::{Digest, Epoch, NodeId};
use atlas_core::{Limits, Member, Membership, Role};
use std::path::Path;
use std::sync::Arc;

/// The smallest cluster that survives a Byzantine replica.
const BYZANTINE_MIN: usize = 4;

/// What all nodes of a cluster share. One that exists has passed every check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    name: String,
    genesis: Digest,
    protocol: KnownProtocol,
    clients: Clients,
    unordered_reads: bool,
    lease_reads: bool,
    initial_state: Option<Digest>,
    members: Vec<ClusterMember>,
    limits: Limits,
    timeouts: Timeouts,
}

/// One replica of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterMember {
    /// Its number.
    pub id: NodeId,
    /// Where the other nodes reach it.
    pub address: Address,
    /// Its identity.
    pub key: PublicKey,
    /// Whether it votes.
    pub role: Role,
}

/// Who may be a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Whoever has a key.
    Any,
    /// These alone.
    Listed(Vec<ListedClient>),
}

/// One admitted client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedClient {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub key: PublicKey,
}

impl Clients {
    /// Whether a client with this key may connect and send requests.
    #[must_use]
    pub fn admits(&self, key: &PublicKey) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(clients) => clients.iter().any(|client| client.key == *key),
        }
    }
}

impl ClusterConfig {
    /// Reads and checks a cluster file. `protocols` are those that it may name.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn load(file: &Path, protocols: &[KnownProtocol]) -> Result<Self, ConfigError> {
        let source = Source::read(file, "a cluster file")?;
        Self::from_source(&source, protocols)
    }

    /// Checks a configuration that a program made.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn new(file: &ClusterFile, protocols: &[KnownProtocol]) -> Result<Self, ConfigError> {
        Check {
            file,
            source: &Source::in_memory(),
        }
        .all(protocols)
    }

    pub(super) fn from_source(
        source: &Source,
        protocols: &[KnownProtocol],
    ) -> Result<Self, ConfigError> {
        let file = &source.parse::<ClusterFile>(DESCRIPTIONS)?;
        Check { file, source }.all(protocols)
    }

    /// What people call the cluster.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The digest that names the cluster: everything signed is bound to it, and nodes with different
    /// ones refuse each other.
    ///
    /// It covers what the cluster began with and what all replicas must do alike: the cluster's id,
    /// its protocol and fault model, the members' ids, keys and roles, and the limits that shape the
    /// replicated state (`checkpoint_interval`, `sessions_max`, `session_replies_max`,
    /// `replies_bytes_max`). Names, addresses, clients, time-outs and the other limits may change between
    /// two starts.
    #[must_use]
    pub const fn genesis(&self) -> &Digest {
        &self.genesis
    }

    /// The ordering protocol that the cluster starts with.
    #[must_use]
    pub const fn protocol(&self) -> KnownProtocol {
        self.protocol
    }

    /// The root of the state that the cluster began with, if it was restored from a backup.
    #[must_use]
    pub const fn initial_state(&self) -> Option<Digest> {
        self.initial_state
    }

    /// The replicas, in the order of their ids.
    #[must_use]
    pub fn members(&self) -> &[ClusterMember] {
        &self.members
    }

    /// The replica with this id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&ClusterMember> {
        self.members.get(id.index())
    }

    /// Who may be a client.
    #[must_use]
    pub const fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Whether reads may be answered without being ordered.
    #[must_use]
    pub const fn unordered_reads(&self) -> bool {
        self.unordered_reads
    }

    /// Whether a leader may answer reads on the strength of its lease.
    #[must_use]
    pub const fn lease_reads(&self) -> bool {
        self.lease_reads
    }

    /// Bounds of messages, queues and windows.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Time-outs.
    #[must_use]
    pub const fn timeouts(&self) -> &Timeouts {
        &self.timeouts
    }

    /// The membership of epoch 0, whose signatures `verifier` checks.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every rule of a membership was checked when this value was made"
    )]
    pub fn membership(&self, verifier: Arc<dyn Verifier>) -> Arc<Membership> {
        let members = self.members.iter().map(|member| Member {
            id: member.id,
            key: member.key,
            role: member.role,
        });
        let (model, members) = (self.protocol.model, members.collect());
        let membership = Membership::new(self.genesis, Epoch::ZERO, model, members, verifier);
        Arc::new(membership.expect("a checked configuration is a membership"))
    }
}

/// A file under examination.
struct Check<'a> {
    file: &'a ClusterFile,
    source: &'a Source,
}

impl Check<'_> {
    fn all(&self, protocols: &[KnownProtocol]) -> Result<ClusterConfig, ConfigError> {
        let file = self.file;
        self.name("name", &file.name)?;
        let mut id = [0; 16];
        hex::decode_to_slice(&file.cluster_id, &mut id).map_err(|_| {
            let found = quoted(&file.cluster_id);
            self.wrong("cluster_id", found, "32 hexadecimal digits")
        })?;
        let protocol = self.protocol(protocols)?;
        let members = self.members()?;
        self.size(protocol, &members)?;
        let clients = self.clients(&members)?;
        file.limits.validate().map_err(|error| {
            let expected = error.expected.trim_start_matches("expected ");
            self.wrong(&format!("limits.{}", error.key), error.found, expected)
        })?;
        if let Some((key, found, expected)) = file.timeouts.wrong() {
            return Err(self.wrong(&format!("timeouts.{key}"), found, expected));
        }
        let initial_state = self.initial_state()?;
        Ok(ClusterConfig {
            name: file.name.clone(),
            genesis: genesis(
                &id,
                protocol,
                &members,
                &file.limits,
                initial_state.as_ref(),
            ),
            initial_state,
            protocol,
            clients,
            unordered_reads: file.unordered_reads,
            lease_reads: file.lease_reads,
            members,
            limits: file.limits.clone(),
            timeouts: file.timeouts,
        })
    }

    fn initial_state(&self) -> Result<Option<Digest>, ConfigError> {
        let Some(text) = &self.file.initial_state else {
            return Ok(None);
        };
        let mut root = [0; 32];
        hex::decode_to_slice(text, &mut root).map_err(|_| {
            let expected = "64 hexadecimal digits, as `atlas restore` writes them";
            self.wrong("initial_state", quoted(text), expected)
        })?;
        Ok(Some(Digest(root)))
    }

    fn wrong(&self, key: &str, found: impl ToString, expected: impl ToString) -> ConfigError {
        self.source
            .wrong(key, found.to_string(), expected.to_string())
    }

    fn name(&self, key: &str, name: &str) -> Result<(), ConfigError> {
        let length = name.chars().count();
        if (1..=64).contains(&length) && !name.chars().any(char::is_control) {
            return Ok(());
        }
        let expected = "a name of 1 to 64 printable characters";
        Err(self.wrong(key, quoted(name), expected))
    }

    fn key(&self, key: &str, text: &str) -> Result<PublicKey, ConfigError> {
        text.parse().map_err(|_| {
            let found = quoted(text);
            self.wrong(key, found, "64 hexadecimal digits")
        })
    }

    fn protocol(&self, known: &[KnownProtocol]) -> Result<KnownProtocol, ConfigError> {
        let name = &self.file.protocol;
        let found = known.iter().find(|protocol| protocol.name == name);
        found.copied().ok_or_else(|| {
            let names: Vec<String> = known.iter().map(|p| format!("`\"{}\"`", p.name)).collect();
            let expected = match names.as_slice() {
                [] => "a protocol, of which this program has none".to_owned(),
                [only] => only.clone(),
                several => format!("one of {}", several.join(", ")),
            };
            self.wrong("protocol", quoted(name), expected)
        })
    }

    fn members(&self) -> Result<Vec<ClusterMember>, ConfigError> {
        let mut members = Vec::with_capacity(self.file.members.len());
        for (position, entry) in self.file.members.iter().enumerate() {
            let member = self.member(position, entry, &members)?;
            members.push(member);
        }
        Ok(members)
    }

    /// Checks one member by itself and against those before it.
    fn member(
        &self,
        position: usize,
        entry: &MemberEntry,
        before: &[ClusterMember],
    ) -> Result<ClusterMember, ConfigError> {
        let at = |key: &str| format!("members[{position}].{key}");
        let id = NodeId(entry.id);
        if before.iter().any(|member| member.id == id) {
            let expected = format!("{position}, as member {id} is there already", id = entry.id);
            return Err(self.wrong(&at("id"), entry.id, expected));
        }
        if id.index() != position {
            let expected = format!("{position}: ids count from 0 without gaps");
            return Err(self.wrong(&at("id"), entry.id, expected));
        }
        let address: Address = entry.address.parse().map_err(|_| {
            let found = quoted(&entry.address);
            self.wrong(&at("address"), found, Address::EXPECTED)
        })?;
        if let Some(other) = before.iter().find(|member| member.address == address) {
            let expected = format!("another address than that of member {}", other.id.0);
            return Err(self.wrong(&at("address"), quoted(&entry.address), expected));
        }
        let key = self.key(&at("public_key"), &entry.public_key)?;
        if let Some(other) = before.iter().find(|member| member.key == key) {
            let expected = format!("another key than that of member {}", other.id.0);
            return Err(self.wrong(&at("public_key"), quoted(&entry.public_key), expected));
        }
        let role = entry.role;
        let after_learner = before.last().is_some_and(|last| last.role == Role::Learner);
        if role == Role::Voter && after_learner {
            let expected = "`\"learner\"`, as a learner precedes it: voters come first";
            return Err(self.wrong(&at("role"), "`\"voter\"`", expected));
        }
        Ok(ClusterMember {
            id,
            address,
            key,
            role,
        })
    }

    fn size(&self, protocol: KnownProtocol, members: &[ClusterMember]) -> Result<(), ConfigError> {
        let voters = members.iter().filter(|m| m.role == Role::Voter).count();
        let found = match members.len() - voters {
            0 => format!("a list with {voters} voters"),
            learners => format!("a list with {voters} voters and {learners} learners"),
        };
        let (max, name, model) = (Quorums::REPLICAS_MAX, protocol.name, protocol.model);
        let needed = match model {
            FaultModel::Byzantine => "at least 4 voters",
            FaultModel::Crash => "1 voter, or at least 3,",
        };
        let why = match (model, voters) {
            // Two are worse than one: either's crash stops both.
            (FaultModel::Crash, 2) => ", as of 2 neither can go on without the other",
            (FaultModel::Byzantine, ..BYZANTINE_MIN) => {
                ", as fewer could not survive a single faulty one"
            }
            (FaultModel::Crash, 0) => "",
            _ if members.len() > max => "",
            _ => return Ok(()),
        };
        let expected =
            format!("{needed} for `{name}` ({model} faults){why}, and at most {max} members");
        Err(self.wrong("members", found, expected))
    }

    fn clients(&self, members: &[ClusterMember]) -> Result<Clients, ConfigError> {
        let entries = match &self.file.clients {
            ClientsEntry::Any => return Ok(Clients::Any),
            ClientsEntry::Listed(entries) => entries,
        };
        if entries.is_empty() {
            let expected = format!("{CLIENTS_EXPECTED}: nobody could use the cluster");
            return Err(self.wrong("clients", "an empty list", expected));
        }
        let mut clients: Vec<ListedClient> = Vec::with_capacity(entries.len());
        for (position, entry) in entries.iter().enumerate() {
            let client = self.client(position, entry, &clients, members)?;
            clients.push(client);
        }
        Ok(Clients::Listed(clients))
    }

    fn client(
        &self,
        position: usize,
        entry: &ClientEntry,
        before: &[ListedClient],
        members: &[ClusterMember],
    ) -> Result<ListedClient, ConfigError> {
        let at = |key: &str| format!("clients[{position}].{key}");
        self.name(&at("name"), &entry.name)?;
        if before.iter().any(|client| client.name == entry.name) {
            let expected = "a name that no other client has";
            return Err(self.wrong(&at("name"), quoted(&entry.name), expected));
        }
        let key = self.key(&at("public_key"), &entry.public_key)?;
        let member = members.iter().find(|member| member.key == key);
        let client = before.iter().find(|client| client.key == key);
        let owner = member.map(|member| format!("member {}", member.id.0));
        if let Some(owner) = owner.or_else(|| client.map(|c| format!("client `{}`", c.name))) {
            let expected = format!("another key than that of {owner}");
            return Err(self.wrong(&at("public_key"), quoted(&entry.public_key), expected));
        }
        let name = entry.name.clone();
        Ok(ListedClient { name, key })
    }
}

fn genesis(
    cluster_id: &[u8; 16],
    protocol: KnownProtocol,
    members: &[ClusterMember],
    limits: &Limits,
    initial_state: Option<&Digest>,
) -> Digest {
    let model = match protocol.model {
        FaultModel::Crash => 0,
        FaultModel::Byzantine => 1,
    };
    let digest = DigestBuilder::new("atlas v1 genesis")
        .bytes(cluster_id)
        .bytes(protocol.name.as_bytes())
        .number(model)
        .number(Epoch::ZERO.0)
        .number(limits.checkpoint_interval)
        .number(limits.sessions_max as u64)
        .number(limits.session_replies_max as u64)
        .number(limits.replies_bytes_max as u64)
        .number(members.len() as u64);
    let add = |digest: DigestBuilder, member: &ClusterMember| {
        let votes = u64::from(member.role == Role::Voter);
        digest
            .number(u64::from(member.id.0))
            .bytes(&member.key.0)
            .number(votes)
    };
    let digest = members.iter().fold(digest, add);
    match initial_state {
        Some(root) => digest.digest(root).finish(),
        None => digest.finish(),
    }
}

/// Text as TOML writes it, shortened when it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    if text.chars().count() <= SHOWN {
        return format!("`{}`", keys::toml_string(text));
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("`{}` and more", keys::toml_string(&start))
}
