//! `money` is a count of the smallest coins: what those are is the locale's to say, and not every one has hundredths.

use rowcast_postgres::{Requirement, check};

use super::harness::{config, run, set, sql};
use crate::support::Server;

async fn told(server: &Server) -> Option<Requirement> {
    check(&config(server)).await.unwrap().into_iter().find(|found| found.name == "money")
}

#[tokio::test]
async fn columns_with_other_decimals_are_named() {
    let mut server = Server::start("");
    if !server.make_locale("ja_JP") {
        return;
    }
    server.stop_in_order();
    server.launch("");
    let client = sql(&server).await;
    run(
        &client,
        "create domain price as money; create type line as (n int, prices price[]);
         create table pay (id int primary key, amount money); create table cart (id int primary key, l line[], n int);
         create table plain (id int primary key, v numeric)",
    )
    .await;
    assert_eq!(told(&server).await, None);
    set(&client, "lc_monetary = 'ja_JP.UTF-8'").await;
    let yen = told(&server).await.unwrap();
    assert!(yen.ok && yen.remedy.is_some(), "{yen:?}");
    assert!(yen.found.contains("ja_JP.UTF-8 it has 0 decimals"), "{yen:?}");
    assert!(yen.found.ends_with(": public.cart (l), public.pay (amount)"), "{yen:?}");
    run(&client, "drop table pay, cart").await;
    assert_eq!(told(&server).await, None);
}
