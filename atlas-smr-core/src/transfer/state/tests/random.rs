//! Everything at once, at random.

use super::super::*;
use super::*;
use atlas_common::quorum::FaultModel;
use atlas_common::rng::SeededRng;

/// What a liar may do to an answer.
fn lie(rng: &mut SeededRng, message: StateTransferMessage) -> Option<StateTransferMessage> {
    Some(match message {
        StateTransferMessage::Parts { mut blobs } => {
            match rng.below(6) {
                0 => return None,
                1 => blobs.clear(),
                2 => blobs = vec![noise(rng.next_u64(), 2000); 300],
                3 => blobs.push(noise(rng.next_u64(), 10)),
                4 => {
                    let victim = rng.below(blobs.len() as u64) as usize;
                    let mut altered = blobs[victim].to_vec();
                    let byte = rng.below(altered.len() as u64) as usize;
                    altered[byte] ^= 1 << rng.below(8);
                    blobs[victim] = altered.into();
                }
                _ => {
                    let digests = blobs.iter().map(|blob| Digest::of(blob)).collect();
                    return Some(StateTransferMessage::Gone { digests });
                }
            }
            StateTransferMessage::Parts { blobs }
        }
        StateTransferMessage::Offer {
            mut certificate,
            frontier,
            mut descriptor,
        } => {
            match rng.below(4) {
                0 => certificate.id.seq = SeqNo(rng.next_u64()),
                1 => descriptor.parts = rng.next_u64(),
                2 => descriptor.pages.reverse(),
                _ => {}
            }
            StateTransferMessage::Offer {
                certificate,
                frontier,
                descriptor,
            }
        }
        other => other,
    })
}

/// One of three peers lies, messages are lost, doubled and late, the fetcher crashes, and the honest
/// ones take checkpoints meanwhile: the state comes whole, or a newer one does.
fn run(seed: u64) {
    let mut rng = SeededRng::new(seed);
    let (keys, membership) = cluster(FaultModel::Byzantine);
    let count = rng.between(0, 3000);
    let states: Vec<State> = (1..4)
        .map(|i| State::plain(8 * i, count, count * i / 7, &keys, &membership))
        .collect();
    let liar = NodeId(rng.between(1, 3) as u32);
    let loss = rng.below(3) as f64 * 0.1;
    let mut run = Run::new(&membership).start(5);
    for step in 0..60 {
        // From the fortieth on it is quiet.
        let calm = step >= 40;
        run.delay = std::time::Duration::from_millis(rng.between(0, if calm { 5 } else { 900 }));
        let newest = &states[(step / 15).min(2)];
        let mut lies = SeededRng::new(rng.next_u64());
        run.go(400, |peer, message| {
            let mut answers = newest.answer(message);
            if peer == liar {
                answers = answers
                    .into_iter()
                    .filter_map(|m| lie(&mut lies, m))
                    .collect();
            }
            answers.retain(|_| calm || !lies.chance(loss));
            if lies.chance(0.1) {
                answers.extend(answers.clone());
            }
            answers
        });
        if run.fetched.is_some() {
            break;
        }
        if !calm && rng.chance(0.3) {
            run.crash(5);
        }
    }
    let fetched = run.fetched.as_ref();
    let fetched = fetched.unwrap_or_else(|| panic!("seed {seed}: nothing after {:?}", run.now));
    let same = |state: &&State| state.certificate.id == fetched.certificate.id;
    let state = states.iter().find(same);
    run.assert_fetched(state.unwrap_or_else(|| panic!("seed {seed}: a state that nobody has")));
}

#[test]
fn liars_losses_and_crashes_do_not_keep_a_true_state_away() {
    let first = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seeds = first.map_or(0..60, |seed| seed..seed + 1);
    for seed in seeds {
        println!("seed {seed}");
        run(seed);
    }
}
