use rowcast_engine::schema::{Column, Identity, Schema, Type, TypeKind};
use serde_json::{Value, json};

use crate::rows::{commit, orders};
use crate::support::{Lines, Server, Socket, Sse};

/// `public."Odd Table"` with as many columns as wanted.
fn odd(columns: usize) -> Schema {
    let column = |at: usize| Column {
        name: format!("c{at}"),
        ty: Type { oid: 16_411, name: "mood".to_owned(), kind: TypeKind::Enum(vec!["sad".to_owned()]) },
        typmod: -1,
        identity: true,
        not_null: false,
    };
    Schema {
        id: 0,
        relation: 16_500,
        database: "shop".to_owned(),
        schema: "public".to_owned(),
        table: "Odd Table".to_owned(),
        channel: "public.\"Odd Table\"".to_owned(),
        identity: Identity::Full,
        inserts_only: false,
        columns: (0..columns).map(column).collect(),
        primary_key: vec![],
        key: vec![],
        unique_key: vec![],
    }
}

fn numbers(answer: &Value) -> Vec<u64> {
    let versions = answer["versions"].as_array().expect("versions");
    versions.iter().map(|version| version["schema"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn versions_of_a_table_are_told() {
    let server = Server::start().await;
    let nothing = server.get("/v1/schemas/public.orders").await;
    assert_eq!(nothing.status, 404);
    assert!(
        nothing.text().contains("No change of public.orders has been captured yet"),
        "{}",
        nothing.text()
    );
    let first = server.journal.register(odd(1)).expect("a version").id;
    orders(&server);
    let second = server.journal.register(odd(2)).expect("a version").id;

    let path = "/v1/schemas/public.%22Odd%20Table%22";
    let answer = server.get(path).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    assert_eq!(answer["channel"], "public.\"Odd Table\"");
    assert_eq!(numbers(&answer), [first, second].map(u64::from));
    let version = &answer["versions"][1];
    assert_eq!((&version["identity"], &version["primary_key"]), (&json!("full"), &json!([])));
    assert_eq!(version["table"], json!({"schema": "public", "name": "Odd Table", "oid": 16_500}));
    let column = json!({"name": "c1", "type": "mood", "oid": 16_411, "enum": ["sad"], "nullable": true, "identity": true});
    assert_eq!(version["columns"][1], column);
    assert_eq!(numbers(&server.get(&format!("{path}?version={first}")).await.json()), [u64::from(first)]);

    for (path, status, words) in [
        ("/v1/schemas/public.ordres".to_owned(), 404, "Did you mean public.orders?"),
        (format!("{path}?version=99"), 404, "No version 99 of public."),
        (format!("{path}?version=x"), 400, "not the number of a version"),
        (format!("{path}?versoin=1"), 400, "Did you mean version?"),
    ] {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, status, "{path}");
        let error = answer.json()["error"].clone();
        let said = format!("{} {}", error["message"], error["hint"]);
        assert!(said.contains(words), "{path}: {said}");
    }
}

/// At every door a version is told before its first event, once, and again nothing of it.
#[tokio::test]
async fn a_change_of_a_table_is_told_in_every_shape() {
    let server = Server::start().await;
    let first = orders(&server);
    let altered = {
        let schemas = server.journal.schemas();
        let mut schema = Schema::clone(&schemas[0]);
        schema.columns[1].not_null = false;
        server.journal.register(schema).expect("a version").id
    };
    let mut sse = Sse::open(server.address, "channel=public.orders").await;
    let mut lines = Lines::open(server.address, "channel=public.orders").await;
    let mut socket = Socket::open(server.address).await;
    socket.subscribe(&json!({"type": "subscribe", "id": "s", "channel": "public.orders"})).await;
    sse.expect("open").await;
    lines.expect().await;
    let mut position = Some(server.journal.newest());
    for (at, (schema, is_new)) in
        [(first, true), (first, false), (altered, true), (first, false)].into_iter().enumerate()
    {
        commit(&server, schema, 1000 * (at as u64 + 1), 1).await;
        if is_new {
            let told = sse.expect("schema").await;
            assert_eq!(told.id, position, "no client's place moves");
            let line = lines.expect().await;
            assert_eq!(told.json(), line);
            assert_eq!((&line["type"], &line["schema"]), (&json!("schema"), &json!(schema)));
            assert_eq!(line["columns"][1]["nullable"], json!(schema == altered));
            let message = socket.expect("schema").await;
            assert_eq!((&message["id"], &message["schema"]), (&json!("s"), &json!(schema)));
            assert_eq!(message["columns"], line["columns"]);
        }
        let event = sse.expect("").await;
        assert_eq!(event.json()["schema"], json!(schema));
        assert_eq!(lines.expect().await, event.json());
        assert_eq!(socket.expect("event").await["id"], event.json()["id"]);
        position = event.id;
    }
    // A page has events alone.
    let page = server.get("/v1/events?limit=10&from=earliest").await.json();
    let named: Vec<_> =
        page["events"].as_array().expect("events").iter().map(|event| &event["schema"]).collect();
    assert_eq!(named, [first, first, altered, first].map(|schema| json!(schema)).iter().collect::<Vec<_>>());
}
