//! Life in the shop.

use std::time::Duration;

use rand::Rng;
use rand::seq::IndexedRandom;
use rowcast_engine::{Error, Result};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_postgres::Client;

use super::DATABASE;
use super::server::{Server, connect};

/// Tables, first rows, and what happens in the shop, each as a function.
const SHOP: &str = include_str!("shop.sql");

/// What happens, and how often among all.
const LIFE: [(&str, u32); 8] = [
    ("select demo.view_pages()", 30),
    ("select demo.place_order()", 25),
    ("select demo.advance_order()", 28),
    ("select demo.cancel_order()", 3),
    ("select demo.move_house()", 4),
    ("select demo.welcome_customer()", 5),
    ("select demo.change_prices()", 3),
    ("select demo.clean_up()", 2),
];

/// Before the next try when the database is away.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks whether capture is ready.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The running load; ends when dropped.
pub(super) struct Load(JoinHandle<()>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the shop.
pub(super) async fn create(server: &Server) -> Result<()> {
    let failed = |error| Error::failed("Cannot make the shop").because(error);
    let client = connect(&server.socket_url("postgres")).await.map_err(failed)?;
    client.batch_execute(&format!("create database {DATABASE}")).await.map_err(failed)?;
    let client = connect(&server.socket_url(DATABASE)).await.map_err(failed)?;
    client.batch_execute(SHOP).await.map_err(failed)
}

impl Load {
    /// Starts it, at `rate` transactions a second.
    pub(super) fn start(server: &Server, rate: u32) -> Self {
        let url = server.socket_url(DATABASE);
        Self(tokio::spawn(async move {
            loop {
                let Err(error) = live(&url, rate).await;
                tracing::warn!("The shop's load is interrupted: {error}");
                sleep(RETRY).await;
            }
        }))
    }
}

enum Never {}

async fn live(url: &str, rate: u32) -> Result<Never, tokio_postgres::Error> {
    let client = connect(url).await?;
    until_captured(&client).await?;
    let mut beat = interval(Duration::from_secs(1) / rate);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
        let sql = next(&mut rand::rng());
        client.batch_execute(sql).await?;
    }
}

/// The first changes shall be seen, too, and custom events need the function.
async fn until_captured(client: &Client) -> Result<(), tokio_postgres::Error> {
    let ready = "select to_regprocedure('rowcast.publish(text, jsonb)') is not null
                     and exists (select from pg_replication_slots where confirmed_flush_lsn is not null)";
    while !client.query_one(ready, &[]).await?.get::<_, bool>(0) {
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

fn next(random: &mut impl Rng) -> &'static str {
    let chosen = LIFE.choose_weighted(random, |(_, weight)| *weight);
    chosen.map_or(LIFE[0].0, |(sql, _)| *sql)
}
