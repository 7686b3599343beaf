//! Connection strings as libpq's users write them, with what they leave in files and in the environment.

use std::net::TcpListener;

use crate::support::ndjson::Ndjson;
use crate::support::{Postgres, Rowcast, own_servers};

#[tokio::test]
async fn a_service_several_hosts_and_a_password_file() {
    if !own_servers("connection") {
        return;
    }
    let mut postgres = Postgres::start(&[]).await;
    let client = postgres.client("postgres").await;
    let role =
        "create role anna login superuser password 'the secret'; create table t (id integer primary key)";
    client.batch_execute(role).await.unwrap();
    postgres.write_hba("host all anna 127.0.0.1/32 scram-sha-256").await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let port = postgres.port();
    let service = format!(
        "[shop]\nhost=127.0.0.1,127.0.0.1\nport={nobody},{port}\nuser=anna\ntarget_session_attrs=read-write\n"
    );
    let services = postgres.write_file("services", &service);
    let passwords = postgres.write_file("passwords", &format!("*:{port}:postgres:anna:the secret\n"));
    let rowcast = Rowcast::on("service=shop")
        .env("PGSERVICEFILE", &services.display().to_string())
        .env("PGPASSFILE", &passwords.display().to_string())
        .env("PGDATABASE", "postgres")
        .start()
        .await;
    let mut events = Ndjson::open(rowcast.address(), "/v1/events?channel=public.t").await.unwrap();
    events.expect("open").await;
    client.execute("insert into t values (1)", &[]).await.unwrap();
    assert_eq!(events.expect("the row").await["after"]["id"], 1);
    // Which of them it is, and no secret.
    let status = rowcast.status().await;
    assert_eq!(
        status["source"]["address"],
        format!("postgres://anna@127.0.0.1:{port}/postgres?sslmode=prefer")
    );
    assert!(rowcast.log().contains(&format!("127.0.0.1:{nobody} is unreachable")), "{}", rowcast.log());
    assert!(!rowcast.log().contains("the secret"));
}
