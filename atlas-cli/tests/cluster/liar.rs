//! A Byzantine replica over real sockets: it has a member's key and place, and nothing else in common
//! with a replica.

use crate::processes::{BETWEEN_LOOKS, PATIENCE, free_ports};
use atlas_common::crypto::{Ed25519, Signature, Signer};
use atlas_common::{AgreedTime, Digest, NodeId, SeqNo, View, wire};
use atlas_communication::{
    ClientAdmission, ConnectionLimits, Lane, Listener, Member, ReplicaInbox, ReplicaLimits,
    ReplicaNetwork, TlsReplicaConfig, TlsReplicaNetwork,
};
use atlas_core::{Batch, Membership};
use atlas_kv::{Kv, KvReply, KvRequest};
use atlas_pbft::Pbft;
use atlas_pbft::message::{
    Message, NewView, Phase, PrePrepare, SignedViewChange, ViewChange, Vote, new_view_digest,
    prepare_digest, view_change_digest,
};
use atlas_pbft::sealed::Sealed;
use atlas_smr::config::{ClientConfig, InitOptions, Initialised, NodeConfig, Ports};
use atlas_smr::proof::{ProofFile, Statement};
use atlas_smr::{
    ApplicationClient, Durability, ProtocolRegistry, Replica, ReplicaHandle, ReplicaStatus,
    connect, create_cluster,
};
use atlas_smr_core::message::SystemMessage;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::watch;

/// Who lies.
const LIAR: usize = 3;
/// The view that the liar leads.
const ITS_VIEW: View = View(LIAR as u64);

/// A liar with replica 3's key.
struct Liar {
    node: NodeConfig,
    membership: Arc<Membership>,
    network: Arc<TlsReplicaNetwork>,
    inbox: ReplicaInbox,
    /// What it has lied about already: lies provoke answers, and are not to grow into a flood.
    about: BTreeSet<(View, SeqNo, &'static str)>,
    /// Wishes of others for the view that it leads.
    wishes: BTreeMap<NodeId, SignedViewChange>,
    /// A proposal that it has heard.
    heard: Option<PrePrepare>,
}

impl Liar {
    fn start(node: NodeConfig) -> Self {
        let members = node.cluster.members().iter();
        let members = members.map(|member| Member {
            id: member.id,
            key: member.key,
            address: member.address.to_string(),
        });
        let config = TlsReplicaConfig {
            id: node.id,
            key: node.key.clone(),
            genesis: *node.cluster.genesis(),
            members: members.collect(),
            clients: ClientAdmission::Any,
            listener: Listener::Address(node.listen.to_string()),
            limits: ReplicaLimits::default(),
            connections: ConnectionLimits::default(),
            pending_handshakes_max: 16,
        };
        let (network, inbox) = TlsReplicaNetwork::start(config).unwrap();
        let membership = node.cluster.membership(Arc::new(Ed25519));
        Self {
            node,
            membership,
            network,
            inbox,
            about: BTreeSet::new(),
            wishes: BTreeMap::new(),
            heard: None,
        }
    }

    fn tell(&self, to: NodeId, message: Message) {
        let frame = wire::encode(&SystemMessage::<Pbft>::Protocol(message)).unwrap();
        self.network.send(to, Lane::Ordering, frame.into());
    }

    fn tell_all(&self, message: &Message) {
        for peer in self.network.peers() {
            self.tell(*peer, message.clone());
        }
    }

    /// Answers every proposal and vote that it hears with lies about that slot.
    async fn lie(mut self) {
        while let Some(inbound) = self.inbox.ordering.recv().await {
            for frame in &inbound.frames {
                let heard = wire::decode::<SystemMessage<Pbft>>(frame, frame.len());
                let Ok(SystemMessage::Protocol(message)) = heard else {
                    continue;
                };
                match message {
                    Message::PrePrepare(p) if self.about.insert((p.view, p.seq, "proposal")) => {
                        self.send_garbage(frame);
                        self.forge_votes(&p);
                        self.vote_twice(&p);
                        self.wish_for_its_view();
                        self.propose_twice(&p, p.view, p.seq);
                        self.propose_twice(&p, ITS_VIEW, SeqNo(p.seq.0 + 1));
                        self.heard = Some(p);
                    }
                    // Another's vote, as if it were its own.
                    Message::Vote(v) if self.about.insert((v.view, v.seq, "vote")) => {
                        self.tell_all(&Message::Vote(v));
                    }
                    Message::ViewChange(wish) if wish.change.view == ITS_VIEW => {
                        self.wishes.insert(wish.from, wish);
                        self.lead();
                    }
                    _ => {}
                }
            }
        }
    }

    /// What it heard, cut short; a length of 2^62 bytes; an unknown kind; nothing at all.
    fn send_garbage(&self, frame: &Bytes) {
        let cut = &frame[..frame.len() / 2];
        let huge = [&[1, 253][..], &(1u64 << 62).to_le_bytes()].concat();
        for lane in [Lane::Ordering, Lane::Application, Lane::Transfer] {
            for bytes in [cut, &huge, &[250, 250, 250], &[]] {
                self.network.broadcast(lane, Bytes::copy_from_slice(bytes));
            }
        }
    }

    /// Votes whose signature is not one.
    fn forge_votes(&self, proposal: &PrePrepare) {
        for phase in [Phase::Prepare, Phase::Commit] {
            let vote = Vote {
                phase,
                view: proposal.view,
                seq: proposal.seq,
                digest: proposal.batch.digest(),
                signature: Signature([7; 64]),
            };
            self.tell_all(&Message::Vote(vote));
        }
    }

    /// Votes for the proposal and for another batch, in both rounds, validly signed.
    fn vote_twice(&self, proposal: &PrePrepare) {
        let other = Digest([9; 32]);
        for (phase, digest) in [
            (Phase::Prepare, other),
            (Phase::Prepare, proposal.batch.digest()),
            (Phase::Commit, other),
            (Phase::Commit, proposal.batch.digest()),
        ] {
            let mut vote = Vote {
                phase,
                view: proposal.view,
                seq: proposal.seq,
                digest,
                signature: Signature([0; 64]),
            };
            vote.signature = self.node.key.sign(&vote.signing_digest(&self.membership));
            self.tell_all(&Message::Vote(vote));
        }
    }

    /// Wants the view that it leads to begin, all the time.
    fn wish_for_its_view(&self) {
        let change = Sealed::new(ViewChange {
            view: ITS_VIEW,
            stable: None,
            prepared: Vec::new(),
        });
        let digest = view_change_digest(&self.membership, &change);
        let signature = self.node.key.sign(&digest);
        self.tell_all(&Message::ViewChange(SignedViewChange {
            from: self.node.id,
            change,
            signature,
        }));
    }

    /// Begins its view as soon as all others want it, and then proposes two batches for each slot.
    fn lead(&mut self) {
        let Some(heard) = self.heard.clone() else {
            return;
        };
        if self.wishes.len() < self.network.peers().len()
            || !self.about.insert((ITS_VIEW, SeqNo::ZERO, "new view"))
        {
            return;
        }
        let changes: Vec<SignedViewChange> = self.wishes.values().cloned().collect();
        let last = |wish: &SignedViewChange| {
            let prepared = wish.change.prepared.last().map(|prepared| prepared.seq);
            prepared.unwrap_or_default().max(wish.change.low())
        };
        let last = changes.iter().map(last).max().unwrap_or_default();
        let digest = new_view_digest(&self.membership, ITS_VIEW, &changes);
        let signature = self.node.key.sign(&digest);
        self.tell_all(&Message::NewView(NewView {
            view: ITS_VIEW,
            changes,
            signature,
        }));
        for ahead in 1..=4 {
            self.propose_twice(&heard, ITS_VIEW, SeqNo(last.0 + ahead));
        }
    }

    /// Two proposals for one slot, each under a signature of its own: one replica sees the first, one
    /// the second, and one sees both. Where another leads, the signature is not the leader's.
    fn propose_twice(&self, like: &PrePrepare, view: View, seq: SeqNo) {
        let time = like.batch.time().unix_millis;
        let at = |unix_millis| Batch::new(AgreedTime { unix_millis }, like.batch.bundles());
        let (first, second) = (at(time + 1), at(time + 2));
        for (index, peer) in self.network.peers().iter().enumerate() {
            if index != 1 {
                self.propose(*peer, view, seq, first.clone());
            }
            if index != 0 {
                self.propose(*peer, view, seq, second.clone());
            }
        }
    }

    fn propose(&self, to: NodeId, view: View, seq: SeqNo, batch: Batch) {
        let digest = prepare_digest(&self.membership, view, seq, &batch.digest());
        let signature = self.node.key.sign(&digest);
        let proposal = PrePrepare {
            view,
            seq,
            batch,
            signature,
        };
        self.tell(to, Message::PrePrepare(proposal));
    }
}

/// Polls until a condition on the status of each correct replica holds.
async fn until(
    what: &str,
    correct: &[ReplicaHandle],
    mut holds: impl FnMut(&[ReplicaStatus]) -> bool,
) -> Vec<ReplicaStatus> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut all = Vec::new();
        for replica in correct {
            all.push(replica.status().await.unwrap());
        }
        if holds(&all) {
            return all;
        }
        assert!(Instant::now() < deadline, "no {what}: {all:#?}");
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// Makes the correct replicas replace their leaders until the liar leads, and waits until they have
/// got rid of it.
async fn give_the_liar_its_turn(correct: &[ReplicaHandle]) {
    for view in (1..=ITS_VIEW.0).map(View) {
        for replica in correct {
            // The liar wishes for its view all the time, so that one correct replica's impatience is
            // enough for all to be there before they are asked.
            if replica.status().await.unwrap().core.protocol.view < view {
                replica.suspect_leader().await.unwrap();
            }
        }
        // The liar's view need not last until all have entered it.
        let enough = if view == ITS_VIEW { 1 } else { LIAR };
        let entered =
            |s: &&ReplicaStatus| s.core.protocol.view >= view && !s.core.protocol.changing_view;
        until(&format!("{view}"), correct, |all| {
            all.iter().filter(entered).count() >= enough
        })
        .await;
    }
    until("view after the liar's", correct, |all| {
        let after =
            |s: &ReplicaStatus| s.core.protocol.view > ITS_VIEW && !s.core.protocol.changing_view;
        all.iter().all(after)
    })
    .await;
}

/// Puts numbered keys, one after the other, and tells how many were acknowledged.
async fn write(client: ApplicationClient<Kv>, acknowledged: watch::Sender<u64>) {
    for number in 0u64.. {
        let put = KvRequest::Put {
            key: number.to_string(),
            value: number.to_string().into(),
        };
        // One that timed out is put again: the value is the same.
        while !matches!(client.call(&put).await, Ok(KvReply::Put { .. })) {}
        if acknowledged.send(number + 1).is_err() {
            return;
        }
    }
}

async fn acknowledged(load: &mut watch::Receiver<u64>, more: u64) {
    let enough = *load.borrow() + more;
    let served = load.wait_for(|count| *count >= enough);
    let served = tokio::time::timeout(PATIENCE, served).await;
    served.expect("the cluster serves no more").unwrap();
}

/// The state digests of the correct replicas, once they have executed the same.
async fn digests(client: &ApplicationClient<Kv>) -> Vec<Digest> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let reports = client.client().status(Duration::from_millis(300)).await;
        let settled = reports.len() == LIAR
            && reports
                .iter()
                .all(|report| report.executed == reports[0].executed);
        if settled {
            return reports.iter().map(|report| report.state).collect();
        }
        assert!(
            Instant::now() < deadline,
            "they do not settle: {reports:#?}"
        );
    }
}

fn cluster(dir: &TempDir) -> Initialised {
    let known = ProtocolRegistry::default().known();
    let pbft = known.iter().find(|known| known.name == "pbft").unwrap();
    let mut options = InitOptions::new(dir.path().join("cluster"), LIAR + 1, *pbft);
    options.ports = Ports::From(free_ports(4));
    options.durability = Durability::Memory;
    create_cluster(&options).unwrap()
}

async fn serve_beside_a_liar() {
    let dir = TempDir::with_prefix("atlas-test-").unwrap();
    let (files, known) = (cluster(&dir), ProtocolRegistry::default().known());
    let node = |replica: usize| NodeConfig::load(&files.replicas[replica], &known).unwrap();
    let start = |replica| {
        Replica::builder(Kv::default())
            .config(node(replica))
            .start()
    };
    let correct: Vec<ReplicaHandle> = (0..LIAR).map(|replica| start(replica).unwrap()).collect();
    let liar = tokio::spawn(Liar::start(node(LIAR)).lie());
    let config = ClientConfig::load(&files.clients[0], &known).unwrap();
    let client = ApplicationClient::<Kv>::new(connect(&config).unwrap());
    client.ready(PATIENCE).await.unwrap();
    let its_links = |s: &ReplicaStatus| s.connected.len() == LIAR;
    until("link to the liar", &correct, |all| {
        all.iter().all(its_links)
    })
    .await;

    let (count, mut load) = watch::channel(0);
    let writer = tokio::spawn(write(client.clone(), count));
    acknowledged(&mut load, 100).await;
    give_the_liar_its_turn(&correct).await;
    acknowledged(&mut load, 100).await;
    let written = *load.borrow();
    drop(load);
    writer.await.unwrap();

    let digests = digests(&client).await;
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
    for number in 0..written {
        let key = number.to_string();
        let value = Some(key.clone().into());
        let reply = client.call(&KvRequest::Get { key }).await.unwrap();
        assert_eq!(reply, KvReply::Value(value));
    }
    let mut evidence = 0;
    for replica in &correct {
        let counters = replica.status().await.unwrap().counters;
        println!("replica {}: {counters:?}", replica.id());
        for reason in ["malformed", "bad_signature", "equivocation"] {
            assert!(
                counters.rejected.contains_key(reason),
                "{reason}: {counters:?}"
            );
        }
        evidence += counters.evidence;
    }
    assert!(evidence > 0, "nobody can prove that it lied");

    assert!(!liar.is_finished(), "it lied to the end");
    liar.abort();
    client.client().close().await;
    for replica in correct {
        replica.shutdown().await;
    }
    convict(&files);
}

/// Row 1: what the correct replicas have kept convicts the liar before anybody who has the cluster
/// file, and nobody else.
fn convict(files: &Initialised) {
    let mut pieces = 0;
    for directory in &files.replicas[..LIAR] {
        let entries = fs::read_dir(directory.join("data")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        let is_evidence = |path: &PathBuf| path.to_string_lossy().contains("evidence-");
        for path in paths.filter(is_evidence) {
            let proof = ProofFile::decode(&fs::read(&path).unwrap()).unwrap();
            let verdict = proof.verify(&files.cluster, &ProtocolRegistry::default());
            let liar = NodeId(LIAR as u32);
            assert_eq!(verdict, Ok(Statement::Contradiction(liar)), "{path:?}");
            pieces += 1;
        }
    }
    assert!(pieces > 0, "no evidence was kept");
}

/// It sends garbage, forges votes, votes twice, passes off others' votes as its own, and proposes two
/// batches for each slot when it leads. The others go on, agree, and have counted its lies.
#[test]
fn a_lying_replica_changes_nothing() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(serve_beside_a_liar());
}
