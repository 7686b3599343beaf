use super::*;

fn parse(query: &str, place: Place) -> Result<Query, Refusal> {
    Query::parse(&pairs_of_query(query), None, place)
}

fn from_of(query: &str) -> From {
    parse(query, Place::Stream).expect(query).from
}

fn refused(query: &str, place: Place) -> Refusal {
    parse(query, place).expect_err(query)
}

#[test]
fn reads_every_place_to_start_from() {
    assert_eq!(from_of(""), From::Latest);
    assert_eq!(from_of("from=earliest"), From::Earliest);
    assert_eq!(from_of("from=17"), From::After(17));
    assert_eq!(from_of("from=last:5"), From::Last(5));
    let time = From::Time(1_795_233_906_123_456);
    assert_eq!(from_of("from=2026-11-21T04:05:06.123456Z"), time);
    assert_eq!(from_of("from=2026-11-21T06:05:06.123456+02:00"), time);
    assert_eq!(from_of("from=2026-11-21T06:05:06.123456%2B02:00"), time);
    assert_eq!(from_of("replay=-1"), From::Latest);
    assert_eq!(from_of("replay=-2"), From::Earliest);
    assert_eq!(from_of("replay=9"), From::After(9));
    for wrong in
        ["from=-1", "from=yesterday", "from=last:", "replay=-3", "from=1&replay=2", "last_event_id=x"]
    {
        assert!(refused(wrong, Place::Stream).hint.is_some(), "{wrong}");
    }
}

#[test]
fn the_last_event_id_wins() {
    let pairs = pairs_of_query("from=earliest&last_event_id=7");
    let parse = |header| Query::parse(&pairs, header, Place::Stream).expect("a query").from;
    assert_eq!(parse(None), From::After(7));
    assert_eq!(parse(Some("8")), From::After(8));
    assert_eq!(from_of("from=3&last_event_id="), From::After(3));
}

#[test]
fn a_page_starts_at_the_earliest_unless_it_waits() {
    let from = |query| parse(query, Place::Page).expect(query).from;
    assert_eq!(from("limit=3"), From::Earliest);
    assert_eq!(from("wait=3s"), From::Latest);
    assert_eq!(from("wait=3s&from=earliest"), From::Earliest);
    assert_eq!(parse("", Place::Page).expect("a page").limit, 100);
    for wrong in ["limit=0", "limit=10001", "wait=61s", "wait=3", "wait=long"] {
        assert_eq!(refused(wrong, Place::Page).code, "bad_parameter", "{wrong}");
    }
}

#[test]
fn channels_and_operations_repeat() {
    let query = parse("channel=public.orders&channel=audit.*&op=insert,update&op=delete", Place::Stream);
    let query = query.expect("a query");
    let channels = [Pattern::Exact("public.orders".to_owned()), Pattern::Prefix("audit.".to_owned())];
    assert_eq!(query.channels, channels);
    assert_eq!(query.ops, [Op::Insert, Op::Update, Op::Delete]);
    assert_eq!(parse("", Place::Stream).expect("a query").channels, [Pattern::All]);
    assert_eq!(refused("op=gap", Place::Stream).hint.as_deref(), Some("Gaps are always told."));
    assert_eq!(refused("op=inserts", Place::Stream).hint.as_deref(), Some("Did you mean insert?"));
}

#[test]
fn what_counts_once_comes_once() {
    for twice in ["from=1&from=2", "replay=-1&replay=-2", "numbers=string&numbers=string"] {
        assert!(refused(twice, Place::Stream).hint.is_some_and(|hint| hint.contains("once")), "{twice}");
    }
    assert_eq!(refused("limit=1&limit=2", Place::Page).field.as_deref(), Some("limit"));
    assert_eq!(refused("wait=1s&wait=2s", Place::Page).field.as_deref(), Some("wait"));
}

#[test]
fn unknown_parameters_are_refused_with_the_nearest() {
    assert_eq!(refused("chanel=a", Place::Stream).hint.as_deref(), Some("Did you mean channel?"));
    assert_eq!(refused("topics=a", Place::Stream).field.as_deref(), Some("topics"));
    assert!(refused("zzz=a", Place::Page).hint.is_some_and(|hint| hint.contains("limit, wait")));
    assert!(refused("wait=3s", Place::Stream).hint.is_some_and(|hint| hint.contains("application/json")));
}

#[test]
fn a_json_object_says_the_same() {
    let object = serde_json::json!({
        "type": "subscribe", "id": "a", "topics": ["public.orders", "x"], "from": 12, "op": null, "numbers": "string",
    });
    let pairs = pairs_of_object(object.as_object().expect("an object")).expect("pairs");
    let query = Query::parse(&pairs, None, Place::Message).expect("a query");
    assert_eq!((query.channels.len(), query.from), (2, From::After(12)));
    assert_eq!(query.options.numbers, Numbers::String);
    let nested = serde_json::json!({"channel": {"name": "a"}});
    assert!(pairs_of_object(nested.as_object().expect("an object")).is_err());
}

#[test]
fn a_header_that_is_no_number_is_refused() {
    let header = |ids: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for id in ids {
            headers.append("last-event-id", axum::http::HeaderValue::from_bytes(id).unwrap());
        }
        last_event_id(&headers).map(|id| id.map(str::to_owned)).map_err(|refusal| refusal.message)
    };
    assert_eq!(header(&[]).unwrap(), None);
    assert_eq!(header(&[b""]).unwrap(), None);
    assert_eq!(header(&[b"7"]).unwrap().as_deref(), Some("7"));
    for wrong in [&["5\u{e4}".as_bytes()][..], &[b"5", b"6"]] {
        assert!(header(wrong).unwrap_err().contains("Last-Event-ID"), "{wrong:?}");
    }
}

/// Whoever asks says how long the word is.
#[test]
fn a_word_longer_than_any_name_is_near_none() {
    let name = "public.orders";
    assert_eq!(one_of("public.order", &[name]), "Did you mean public.orders?");
    let long = format!("public.order{}", "s".repeat(300));
    assert!(one_of(&long, &[name]).starts_with("It can be one of"));
}
