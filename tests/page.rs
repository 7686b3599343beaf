//! The page at `/`, in a real Chromium.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Postgres, Rowcast, browser};

/// A row that a careless page would run.
const HOSTILE: &str =
    "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>";

#[tokio::test]
async fn the_page_shows_what_happens_and_talks_to_nobody_else() {
    let database = Postgres::shared().await.create_database("page").await;
    let sql = "create table orders (id integer primary key, status text, total numeric); alter table orders replica identity full;
        create table plain (a integer)";
    database.execute(sql).await;
    let rowcast = Rowcast::of(&database).start().await;
    let client = database.client().await;
    client
        .batch_execute("insert into orders values (1, 'new', 9.50); update orders set status = 'paid'")
        .await
        .unwrap();

    let url = format!("http://{}/", rowcast.address());
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/page.png").display().to_string();
    let page = tokio::spawn(async move { browser::node("page.mjs", &[&url, &picture]).await });
    // For as long as the browser looks, so that something is live whenever it starts to.
    let mut number = 1;
    while !page.is_finished() {
        number += 1;
        client.execute("insert into orders values ($1, $2, 1.5)", &[&number, &HOSTILE]).await.unwrap();
        client
            .batch_execute(
                "begin; delete from orders where id % 5 = 0; update orders set total = total + 1 where id > (select max(id) - 5 from orders); commit",
            )
            .await
            .unwrap();
        client.batch_execute("select rowcast.publish('greetings', '{\"hello\": \"world\"}')").await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let told = page.await.expect("the page");
    let seen: &Value = &told[0];
    assert_eq!(seen["errors"], json!([]), "{seen}");
    assert_eq!(seen["foreign"], json!([]), "no request leaves the server's own address");
    assert_eq!(seen["title"], "Rowcast", "no value was run");
    assert_eq!(seen["health"], "Changes flow");
    assert_eq!(seen["source"], "streaming");
    assert!(
        seen["rate"].as_str().unwrap().replace(',', "").parse::<f64>().is_ok_and(|rate| rate > 0.0),
        "{seen}"
    );
    assert!(seen["lag"].as_str().unwrap().ends_with('B'), "{seen}");
    let doors = seen["doors"].as_str().unwrap();
    assert!(doors.contains("http") && doors.contains("running") && doors.contains("1 sse"), "{doors}");
    assert!(seen["hostile"].as_str().unwrap().contains("<img src=x"), "as text: {seen}");
    assert_eq!(seen["images"], 0);
    assert_eq!(seen["filtered"], json!(["greetings"]), "after choosing a channel");
    assert_eq!(
        seen["refused"].as_str().map(|text| text.is_empty()),
        Some(false),
        "a wrong channel is explained"
    );
    assert!(
        seen["whole"].as_str().unwrap().contains("\"hello\": \"world\""),
        "a click shows all of it: {seen}"
    );
}
