use super::*;
use atlas_common::{AgreedTime, SeqNo, wire};
use atlas_smr_execution::state::through_checkpoint;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn update(state: &mut KvState, request: KvRequest) -> KvReply {
    let mut cx = ExecutionContext::standalone(SeqNo(1), AgreedTime::default());
    Kv::default().update(state, request, &mut cx)
}

fn read(state: &KvState, request: KvRequest) -> KvReply {
    Kv::default().read(state, request)
}

fn put(key: &str, value: impl Into<Bytes>) -> KvRequest {
    KvRequest::Put {
        key: key.to_owned(),
        value: value.into(),
    }
}

fn txn_get(key: &str) -> KvOperation {
    KvOperation::Get {
        key: key.to_owned(),
    }
}

fn txn_put(key: &str, value: impl Into<Bytes>) -> KvOperation {
    KvOperation::Put {
        key: key.to_owned(),
        value: value.into(),
    }
}

/// A transaction without comparisons.
fn txn(then: Vec<KvOperation>) -> KvRequest {
    KvRequest::Txn {
        compares: vec![],
        then,
        otherwise: vec![],
    }
}

/// Each key with itself for its value.
fn filled(keys: &[&str]) -> KvState {
    let mut state = KvState::default();
    for key in keys {
        let reply = update(&mut state, put(key, (*key).to_owned()));
        assert_eq!(reply, KvReply::Put { previous: false });
    }
    state
}

#[test]
fn compare_and_swap_changes_only_what_is_as_expected() {
    let mut state = filled(&["a"]);
    let mut cas = |expect: Option<&'static str>, new: Option<&'static str>| {
        let request = KvRequest::Cas {
            key: "a".to_owned(),
            expect: expect.map(Bytes::from),
            new: new.map(Bytes::from),
        };
        match update(&mut state, request) {
            KvReply::Cas { swapped, current } => (swapped, current),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(cas(None, Some("x")), (false, Some("a".into())));
    assert_eq!(cas(Some("a"), Some("b")), (true, None));
    assert_eq!(cas(Some("b"), None), (true, None));
    assert_eq!(cas(Some("b"), Some("c")), (false, None));
    assert_eq!(cas(None, Some("d")), (true, None));
    assert_eq!(state.get("a"), Some(&b"d"[..]));
}

fn page(state: &KvState, prefix: &str, after: Option<&str>, limit: u32) -> (String, bool) {
    let request = KvRequest::List {
        prefix: prefix.to_owned(),
        after: after.map(str::to_owned),
        limit,
    };
    match read(state, request) {
        KvReply::Entries { entries, more } => {
            let keys: Vec<_> = entries.into_iter().map(|(key, _)| key).collect();
            (keys.join(" "), more)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_page_goes_on_where_the_one_before_ended() {
    let state = filled(&["a", "b/1", "b/2", "b/3", "b0", "c"]);
    let page = |after, limit| page(&state, "b/", after, limit);
    assert_eq!(page(None, 2), ("b/1 b/2".to_owned(), true));
    assert_eq!(page(Some("b/2"), 2), ("b/3".to_owned(), false));
    assert_eq!(page(None, 3), ("b/1 b/2 b/3".to_owned(), false));
    assert_eq!(page(Some("a"), 3), ("b/1 b/2 b/3".to_owned(), false));
    assert_eq!(page(Some("c"), 3), (String::new(), false));
    assert_eq!(page(None, 0), (String::new(), true));
}

#[test]
fn a_page_ends_at_its_bytes_but_never_stands_still() {
    let mut state = KvState::default();
    update(&mut state, put("a", vec![0; VALUE_BYTES_MAX]));
    update(&mut state, put("b", vec![0; PAGE_BYTES / 2 - 100]));
    update(&mut state, put("c", vec![0; PAGE_BYTES / 2 - 100]));
    update(&mut state, put("d", "small"));
    update(&mut state, put("e", vec![0; PAGE_BYTES]));
    assert_eq!(page(&state, "", None, 10), ("a".to_owned(), true));
    assert_eq!(page(&state, "", Some("a"), 10), ("b c d".to_owned(), true));
    assert_eq!(page(&state, "", Some("d"), 10), ("e".to_owned(), false));
}

#[test]
fn a_transaction_takes_one_branch_and_sees_its_own_writes() {
    let mut state = filled(&["a", "b"]);
    let swap = |expect: &'static str| KvRequest::Txn {
        compares: vec![
            Compare {
                key: "a".to_owned(),
                expect: Some(expect.into()),
            },
            Compare {
                key: "absent".to_owned(),
                expect: None,
            },
        ],
        then: vec![
            txn_put("a", "1"),
            txn_get("a"),
            KvOperation::Delete {
                key: "b".to_owned(),
            },
        ],
        otherwise: vec![txn_get("b")],
    };
    let failed = KvReply::Txn {
        succeeded: false,
        replies: vec![KvOutcome::Value(Some("b".into()))],
    };
    assert_eq!(update(&mut state, swap("x")), failed);
    let done = KvReply::Txn {
        succeeded: true,
        replies: vec![
            KvOutcome::Put { previous: true },
            KvOutcome::Value(Some("1".into())),
            KvOutcome::Deleted { existed: true },
        ],
    };
    assert_eq!(update(&mut state, swap("a")), done);
    assert_eq!((state.len(), state.get("b")), (1, None));
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut state = filled(&["a"]);
    update(&mut state, put("large", vec![1; VALUE_BYTES_MAX]));
    let before = state.clone();
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let key = KvError::KeyTooLong {
        bytes: long.len() as u64,
    };
    let value = KvError::ValueTooLarge {
        bytes: VALUE_BYTES_MAX as u64 + 1,
    };
    let count = KvError::TxnTooLong {
        count: TXN_OPERATIONS_MAX as u64 + 1,
    };
    let create = KvRequest::Cas {
        key: long.clone(),
        expect: None,
        new: Some("x".into()),
    };
    let refused = [
        (put(&long, "x"), key.clone()),
        (create, key.clone()),
        (put("k", vec![0; VALUE_BYTES_MAX + 1]), value),
        (txn(vec![txn_put("b", "1"), txn_put(&long, "2")]), key),
        (txn(vec![txn_get("a"); TXN_OPERATIONS_MAX + 1]), count),
        (
            txn(vec![txn_put("b", "1"), txn_get("large"), txn_get("b")]),
            KvError::TxnReadsTooMuch,
        ),
    ];
    for (request, error) in refused {
        assert_eq!(update(&mut state, request), KvReply::Refused(error));
    }
    assert!(state == before);
}

#[test]
fn a_write_sent_as_an_unordered_read_is_refused() {
    let state = filled(&["a"]);
    let key = || "a".to_owned();
    let writes = [
        put("a", "b"),
        KvRequest::Delete { key: key() },
        KvRequest::Cas {
            key: key(),
            expect: None,
            new: None,
        },
        txn(vec![txn_get("a"), txn_put("b", "c")]),
    ];
    for request in writes {
        let reply = read(&state, request);
        assert_eq!(reply, KvReply::Refused(KvError::ReadOnly));
    }
    let both = KvReply::Txn {
        succeeded: true,
        replies: vec![KvOutcome::Value(Some("a".into())), KvOutcome::Value(None)],
    };
    assert_eq!(read(&state, txn(vec![txn_get("a"), txn_get("b")])), both);
}

#[test]
fn the_largest_answers_fit_the_default_limit() {
    let mut state = KvState::default();
    let key = "k".repeat(KEY_BYTES_MAX);
    update(&mut state, put(&key, vec![1; VALUE_BYTES_MAX]));
    let mut reads = vec![txn_get("absent"); TXN_OPERATIONS_MAX - 1];
    reads.push(txn_get(&key));
    let list = KvRequest::List {
        prefix: String::new(),
        after: None,
        limit: u32::MAX,
    };
    for request in [KvRequest::Get { key }, list, txn(reads)] {
        let reply = read(&state, request);
        assert!(!matches!(reply, KvReply::Refused(_)));
        assert!(wire::encode(&reply).unwrap().len() <= 1 << 20);
    }
}

fn requests() -> impl Strategy<Value = KvRequest> {
    let key = || "[a-d]{1,2}";
    let value = || "[x-z]".prop_map(Bytes::from);
    prop_oneof![
        key().prop_map(|key| KvRequest::Get { key }),
        (key(), value()).prop_map(|(key, value)| KvRequest::Put { key, value }),
        key().prop_map(|key| KvRequest::Delete { key }),
        (
            key(),
            proptest::option::of(value()),
            proptest::option::of(value())
        )
            .prop_map(|(key, expect, new)| KvRequest::Cas { key, expect, new }),
    ]
}

fn any_request() -> impl Strategy<Value = KvRequest> {
    let key = || "[a-d]{1,2}";
    let operation = || {
        prop_oneof![
            key().prop_map(|key| KvOperation::Get { key }),
            key().prop_map(|key| KvOperation::Delete { key }),
            key().prop_map(|key| KvOperation::Put {
                key,
                value: "t".into()
            }),
        ]
    };
    let operations = move || proptest::collection::vec(operation(), 0..3);
    let compares = proptest::collection::vec((key(), prop::bool::ANY), 0..2);
    let txn = (compares, operations(), operations()).prop_map(|(compares, then, otherwise)| {
        let compare = |(key, there): (String, bool)| {
            let expect = there.then(|| Bytes::from("x"));
            Compare { key, expect }
        };
        let compares = compares.into_iter().map(compare).collect();
        KvRequest::Txn {
            compares,
            then,
            otherwise,
        }
    });
    prop_oneof![2 => requests(), 1 => txn]
}

/// The same on a plain map.
fn expected(model: &mut BTreeMap<String, Bytes>, request: KvRequest) -> KvReply {
    match request {
        KvRequest::Get { key } => KvReply::Value(model.get(&key).cloned()),
        KvRequest::Put { key, value } => KvReply::Put {
            previous: model.insert(key, value).is_some(),
        },
        KvRequest::Delete { key } => KvReply::Deleted {
            existed: model.remove(&key).is_some(),
        },
        KvRequest::Cas { key, expect, new } => {
            let found = model.get(&key).cloned();
            let swapped = found == expect;
            match new {
                Some(new) if swapped => drop(model.insert(key, new)),
                None if swapped => drop(model.remove(&key)),
                _ => {}
            }
            let current = if swapped { None } else { found };
            KvReply::Cas { swapped, current }
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn the_store_is_an_ordered_map(requests in proptest::collection::vec(requests(), 0..200)) {
        let (mut state, mut model) = (KvState::default(), BTreeMap::new());
        for request in requests {
            let reply = update(&mut state, request.clone());
            prop_assert_eq!(reply, expected(&mut model, request));
        }
        let entries = model.iter().map(|(key, value)| (key.as_str(), &value[..]));
        prop_assert!(state.iter().eq(entries));
        // A checkpoint leads back to the same entries in the same parts.
        let (root, thawed) = through_checkpoint(&state, 1000).unwrap();
        prop_assert!(thawed == state);
        prop_assert_eq!(through_checkpoint(&thawed, 1000).unwrap().0, root);
    }

    /// Whatever a request says that it does not concern, it neither reads nor changes.
    #[test]
    fn a_request_keeps_to_the_keys_that_it_declares(
        before in proptest::collection::vec(requests(), 0..40),
        request in any_request(),
        others in proptest::collection::vec(("[a-d]{1,2}", "[x-z]".prop_map(Bytes::from)), 0..20),
    ) {
        let mut state = KvState::default();
        for request in before {
            update(&mut state, request);
        }
        let keys = request.keys();
        // Keys that the request does not name are changed under it.
        let mut changed = state.clone();
        let foreign = |key: &str| !keys.names(key.as_bytes());
        let others: Vec<_> = others.into_iter().filter(|(key, _)| foreign(key)).collect();
        for (key, value) in &others {
            changed.put(key, value).unwrap();
        }
        let reply = update(&mut state, request.clone());
        prop_assert_eq!(update(&mut changed, request), reply);
        for (key, value) in &others {
            state.put(key, value).unwrap();
        }
        prop_assert!(changed == state);
    }

    #[test]
    fn hostile_bytes_are_refused_or_answered(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        if let Ok(request) = Kv::decode_request(&bytes, 4096) {
            let mut state = filled(&["a", "b"]);
            read(&state, request.clone());
            update(&mut state, request);
        }
    }
}
