use rowcast_engine::Lsn;
use rowcast_engine::event::Op;
use rowcast_engine::ingest::Ingest;
use rowcast_engine::record::{Builder, TxStart};
use rowcast_engine::schema::{Column, Identity, Schema, SchemaId, Type};
use serde_json::{Value, json};

use crate::support::{Server, Socket, Sse, soon};

pub(crate) fn orders(server: &Server) -> SchemaId {
    let column = |name: &str, oid, ty: &str, identity| Column {
        name: name.to_owned(),
        ty: Type::base(oid, ty),
        typmod: -1,
        identity,
        not_null: true,
    };
    let schema = Schema {
        id: 0,
        relation: 16_384,
        database: "shop".to_owned(),
        schema: "public".to_owned(),
        table: "orders".to_owned(),
        channel: "public.orders".to_owned(),
        identity: Identity::Default,
        inserts_only: false,
        columns: vec![column("id", 20, "int8", true), column("total", 1700, "numeric", false)],
        primary_key: vec![0],
        key: vec![0],
        unique_key: vec![],
    };
    server.journal.register(schema).expect("a version").id
}

fn insert(id: &str, total: &str) -> Vec<u8> {
    let mut raw = vec![b'N', 0, 2];
    for value in [id, total] {
        raw.push(b't');
        raw.extend_from_slice(&u32::try_from(value.len()).expect("short").to_be_bytes());
        raw.extend_from_slice(value.as_bytes());
    }
    raw
}

/// A transaction of `count` inserts that ends at `lsn`.
pub(crate) async fn commit(server: &Server, schema: SchemaId, lsn: u64, count: usize) {
    let mut builder = Builder::new();
    builder.begin(TxStart { xid: 741, final_lsn: Lsn(lsn - 8), ..TxStart::default() });
    for id in 0..count {
        builder.change(schema, Op::Insert, Lsn(lsn - 16), &insert(&(id + 1).to_string(), "9.50"));
    }
    builder.commit(Lsn(lsn));
    let room = Ingest::new(server.journal.clone()).room().await.expect("room");
    room.append(&server.journal, builder.take(), Lsn(lsn));
}

#[tokio::test]
async fn rows_come_as_they_were_committed() {
    let server = Server::start().await;
    let schema = orders(&server);
    let before = server.journal.newest();
    let mut sse = Sse::open(server.address, "channel=public.*").await;
    let mut strings = Sse::open(server.address, "channel=public.orders&op=insert&numbers=string").await;
    let mut deletes = Socket::open(server.address).await;
    deletes.subscribe(&json!({"type": "subscribe", "id": "d", "op": ["delete"]})).await;
    let mut socket = Socket::open(server.address).await;
    socket.subscribe(&json!({"type": "subscribe", "id": "s", "channel": "public.orders"})).await;
    sse.expect("open").await;
    strings.expect("open").await;
    commit(&server, schema, 1000, 3).await;
    // What the rows look like comes before them, and changes no client's place.
    let told = sse.expect("schema").await;
    assert_eq!(told.id, Some(before));
    let mut record = socket.expect("schema").await;
    assert_eq!(record["id"].take(), json!("s"));
    record.as_object_mut().expect("an object").remove("id");
    assert_eq!(told.json(), record);
    assert_eq!((&record["schema"], &record["key"]), (&json!(schema), &json!(["id"])));
    strings.expect("schema").await;
    let mut last = 0;
    for seq in 0..3 {
        let event = sse.expect("").await.json();
        assert_eq!((&event["channel"], &event["op"]), (&json!("public.orders"), &json!("insert")));
        assert_eq!(event["after"], json!({"id": seq + 1, "total": "9.50"}));
        assert_eq!(event["schema"], json!(schema));
        assert_eq!(event["tx"], json!({"id": 741, "lsn": "0/3E8", "seq": seq, "last": seq == 2}));
        let id = event["id"].as_u64().expect("an id");
        assert!(id > last);
        last = id;
        let message = socket.expect("event").await;
        let mut same = event;
        same["type"] = json!("event");
        same["sub"] = json!("s");
        assert_eq!(message, same);
    }
    assert_eq!(strings.expect("").await.json()["after"]["id"], json!("1"));
}

#[tokio::test]
async fn a_reader_goes_on_inside_a_transaction() {
    let server = Server::start().await;
    let schema = orders(&server);
    let mut head = server.journal.head();
    let before = server.journal.newest();
    commit(&server, schema, 1000, 5000).await;
    soon("the commit", head.wait_for(|head| *head > before)).await.expect("a journal");
    let newest = server.journal.newest();
    let mut sse = Sse::open(server.address, &format!("from={}", newest - 2)).await;
    sse.expect("open").await;
    assert_eq!(sse.expect("schema").await.id, Some(newest - 2));
    let mut seqs = Vec::new();
    for _ in 0..2 {
        seqs.push(sse.expect("").await.json()["tx"]["seq"].clone());
    }
    assert_eq!(Value::from(seqs), json!([4998, 4999]));
}
