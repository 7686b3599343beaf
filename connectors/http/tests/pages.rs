use serde_json::{Value, json};

use crate::support::{Server, Setup, request, soon};

fn ids(page: &Value) -> Vec<u64> {
    let events = page["events"].as_array().expect("events");
    events.iter().map(|event| event["id"].as_u64().expect("an id")).collect()
}

#[tokio::test]
async fn pages_follow_one_another() {
    let server = Server::start().await;
    let all = server.publish("a", 7).await;
    server.publish("b", 1).await;
    let mut path = "/v1/events?channel=a&limit=3".to_owned();
    let mut seen = Vec::new();
    for expected in [3, 3, 1, 0] {
        let page = server.get(&path).await.json();
        assert_eq!(ids(&page).len(), expected, "{page}");
        assert_eq!((&page["gap"], &page["oldest"]), (&json!(null), &json!(all[0])));
        seen.extend(ids(&page));
        path = format!("/v1/events?channel=a&limit=3&from={}", page["next"]);
    }
    assert_eq!(seen, all);
    let page = server.get(&path).await.json();
    // What was filtered away is not looked at again.
    assert_eq!(page["next"], page["newest"]);
}

#[tokio::test]
async fn a_limit_inside_a_transaction_does_not_lose_the_rest() {
    let server = Server::start().await;
    let events: Vec<(&str, &[u8])> = vec![("a", b"1"); 10];
    let first = server.journal.publish(&events, 0).await.expect("an id");
    let page = server.get("/v1/events?limit=4").await.json();
    assert_eq!(page["next"], json!(first + 3));
    let rest = server.get(&format!("/v1/events?from={}&limit=9", page["next"])).await.json();
    assert_eq!(ids(&rest), (first + 4..first + 10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_page_that_waits_comes_with_the_first_event() {
    let server = Server::start().await;
    let old = server.publish("a", 1).await[0];
    let answer = soon("the page", async {
        let (answer, id) = tokio::join!(server.get("/v1/events?channel=a&wait=20s&from=latest"), async {
            while server.get("/v1/status").await.json()["clients"]["page"] != json!(1) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            server.publish("b", 1).await;
            server.publish("a", 1).await[0]
        });
        assert!(id > old);
        (answer.json(), id)
    });
    let (page, id) = answer.await;
    assert_eq!(ids(&page), [id]);
    assert_eq!(page["next"], json!(id));
}

#[tokio::test]
async fn a_page_that_waits_in_vain_comes_back_empty() {
    let server = Server::start().await;
    let newest = server.publish("b", 3).await[2];
    let page = server.get("/v1/events?channel=a&wait=20ms").await.json();
    assert_eq!((ids(&page).len(), &page["next"]), (0, &json!(newest)));
    assert_eq!(page["unknown"], json!(["a"]));
}

#[tokio::test]
async fn a_page_tells_its_gap() {
    let server = Server::with(Setup { small: Some(8192), ..Setup::default() }).await;
    let first = server.publish("a", 1).await[0];
    while server.journal.oldest() <= first {
        server.publish("a", 50).await;
    }
    let oldest = server.journal.oldest();
    let page = server.get(&format!("/v1/events?from={first}&limit=2")).await.json();
    assert_eq!(page["gap"], json!({"from": first + 1, "to": oldest - 1, "reason": "retention"}));
    assert_eq!(ids(&page), [oldest, oldest + 1]);
    let newest = server.journal.newest();
    let page = server.get(&format!("/v1/events?from={}&wait=10s", newest + 9)).await.json();
    assert_eq!((&page["gap"]["reason"], &page["next"]), (&json!("ahead"), &json!(newest)));
}

#[tokio::test]
async fn a_post_says_the_same_in_a_body() {
    let server = Server::start().await;
    server.publish("a", 2).await;
    let b = server.publish("b", 2).await;
    let body = json!({"channel": ["b", "c"], "from": "earliest", "limit": 1}).to_string();
    let page = request(server.address, "POST", "/v1/events", &[], &body).await.json();
    assert_eq!(ids(&page), b[..1]);
    let wrong = request(server.address, "POST", "/v1/events", &[], "[1]").await;
    assert_eq!((wrong.status.as_u16(), &wrong.json()["error"]["code"]), (400, &json!("bad_request")));
}

#[tokio::test]
async fn wrong_parameters_are_refused_with_the_remedy() {
    let server = Server::start().await;
    for (query, field, hint) in [
        ("chanel=a", "chanel", "Did you mean channel?"),
        ("op=udpate", "op", "Did you mean update?"),
        ("numbers=text", "numbers", "It can be one of mixed, string, number."),
    ] {
        let answer = server.get(&format!("/v1/events?{query}")).await;
        assert_eq!(answer.status, 400, "{query}");
        let error = &answer.json()["error"];
        assert_eq!((&error["field"], &error["hint"]), (&json!(field), &json!(hint)), "{query}");
        assert!(error["message"].is_string());
    }
    let headers = [("accept", "text/event-stream")];
    let answer = request(server.address, "GET", "/v1/events?limit=3", &headers, "").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["field"]), (400, &json!("limit")));
    let answer = request(server.address, "GET", "/v1/events", &[("accept", "image/png")], "").await;
    assert_eq!(answer.status, 406);
    let answer = server.get("/v1/event").await;
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]["code"]), (404, &json!("not_found")));
    let answer = request(server.address, "DELETE", "/v1/events", &[], "").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.json()["error"]["code"]),
        (405, &json!("method_not_allowed"))
    );
}
