//! The cluster file as it is written, before anything but its shape is checked.

use super::source::Descriptions;
use super::timeouts::Timeouts;
use atlas_core::{Limits, Role};
use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// What all nodes of a cluster share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterFile {
    /// What people call it; shown in logs and in `/status`.
    pub name: String,
    /// 32 hexadecimal digits chosen at random, so that no two clusters are taken for each other.
    pub cluster_id: String,
    /// The name of the ordering protocol that the cluster starts with.
    pub protocol: String,
    /// Who may be a client.
    pub clients: ClientsEntry,
    /// Whether reads may be answered without being ordered. Ordered calls then wait for a quorum of
    /// replies.
    #[serde(default)]
    pub unordered_reads: bool,
    /// Whether a Raft leader may answer reads without asking its followers, for as long as clocks
    /// allow it.
    #[serde(default)]
    pub lease_reads: bool,
    /// The root of the state that the cluster begins with, 64 hexadecimal digits, if it was restored
    /// from a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_state: Option<String>,
    /// The replicas, voters first.
    pub members: Vec<MemberEntry>,
    /// Bounds of messages, queues and windows.
    #[serde(default)]
    pub limits: Limits,
    /// Time-outs.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberEntry {
    /// Its number, counted from 0 without gaps.
    pub id: u32,
    /// Where the other nodes reach it.
    pub address: String,
    /// Its public key, 64 hexadecimal digits.
    pub public_key: String,
    /// Whether it votes.
    #[serde(default = "voter")]
    pub role: Role,
}

const fn voter() -> Role {
    Role::Voter
}

/// Who may be a client: `clients = "any"`, or `[[clients]]` tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientsEntry {
    /// Whoever has a key.
    Any,
    /// These alone.
    Listed(Vec<ClientEntry>),
}

/// One admitted client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientEntry {
    /// Its name.
    pub name: String,
    /// Its public key, 64 hexadecimal digits.
    pub public_key: String,
}

pub(super) const CLIENTS_EXPECTED: &str =
    "`\"any\"`, or a list of tables with `name` and `public_key`";

pub(super) const DESCRIPTIONS: &Descriptions = &[
    ("name", "a name of 1 to 64 printable characters"),
    ("cluster_id", "32 hexadecimal digits"),
    ("protocol", "the name of an ordering protocol"),
    ("clients", CLIENTS_EXPECTED),
    ("clients[]", "a table with `name` and `public_key`"),
    ("clients[].name", "a name of 1 to 64 printable characters"),
    ("clients[].public_key", "64 hexadecimal digits"),
    ("unordered_reads", "`true` or `false`"),
    ("lease_reads", "`true` or `false`"),
    ("initial_state", "64 hexadecimal digits"),
    (
        "members",
        "a list of tables with `id`, `address` and `public_key`",
    ),
    ("members[].id", "a number; ids count from 0 without gaps"),
    ("members[].address", super::Address::EXPECTED),
    ("members[].public_key", "64 hexadecimal digits"),
    ("members[].role", "`\"voter\"` or `\"learner\"`"),
];

impl Serialize for ClientsEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::Listed(clients) => clients.serialize(serializer),
        }
    }
}

// Not derived: serde's untagged enums lose what was wrong, and where.
impl<'de> Deserialize<'de> for ClientsEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyOrList;

        impl<'de> Visitor<'de> for AnyOrList {
            type Value = ClientsEntry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(CLIENTS_EXPECTED)
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<ClientsEntry, E> {
                match word {
                    "any" => Ok(ClientsEntry::Any),
                    _ => Err(E::invalid_value(de::Unexpected::Str(word), &self)),
                }
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<ClientsEntry, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(ClientsEntry::Listed)
            }
        }

        deserializer.deserialize_any(AnyOrList)
    }
}
