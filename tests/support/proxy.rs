//! A network between two programs that can break.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What becomes of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Way {
    /// Passes everything on.
    #[default]
    Open,
    /// Holds everything back, ends as well; connections stay open.
    Stalled,
    /// Has ended, as if its sender had nothing more to say; the other direction goes on.
    Ended,
}

/// What ends a connection on which the server says it.
#[derive(Clone, Copy, Debug)]
struct Poison {
    words: &'static [u8],
    /// What the client gets in place of all that came together with them; a reset where it is nothing.
    last: &'static [u8],
}

/// What the network does.
#[derive(Clone, Debug, Default)]
struct Weather {
    to_server: Way,
    to_client: Way,
    /// Resets every connection, old and new.
    down: bool,
    /// Connections up to this number are reset for the client, and the server does not hear of it.
    abandoned: u64,
    /// Only replication connections are held up.
    only_streams: bool,
    poison: Option<Poison>,
    /// What the server says comes no faster, in bytes a second; over replication connections it does.
    pace: Option<f64>,
    /// And no more than this, from the first connection on, in bytes.
    granted: Option<u64>,
}

/// A TCP proxy to one target. Dropping it resets its connections.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: Arc<watch::Sender<Weather>>,
    connections: Arc<AtomicU64>,
    /// What came at a pace, in bytes.
    paced: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own.
    pub(crate) async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let weather = Arc::new(watch::Sender::new(Weather::default()));
        let (sender, connections) = (Arc::clone(&weather), Arc::new(AtomicU64::new(0)));
        let (counted, paced) = (Arc::clone(&connections), Arc::<AtomicU64>::default());
        let bytes = Arc::clone(&paced);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = counted.fetch_add(1, Ordering::Relaxed) + 1;
                tokio::spawn(connection(client, target, number, sender.subscribe(), Arc::clone(&bytes)));
            }
        });
        Self { address, weather, connections, paced, task }
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections have come so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Resets what is connected and whoever comes, until [`Proxy::mend`].
    pub(crate) fn cut(&self) {
        self.weather.send_modify(|weather| weather.down = true);
    }

    /// Holds all bytes back, until [`Proxy::mend`].
    pub(crate) fn stall(&self) {
        self.ways(Way::Stalled, Way::Stalled);
    }

    /// Holds back what the client says.
    pub(crate) fn stall_to_server(&self) {
        self.ways(Way::Stalled, Way::Open);
    }

    /// Holds back what the server says.
    pub(crate) fn stall_to_client(&self) {
        self.ways(Way::Open, Way::Stalled);
    }

    /// What is held back by the next words is only what goes over replication connections.
    pub(crate) fn only_streams(&self) {
        self.weather.send_modify(|weather| weather.only_streams = true);
    }

    /// Tells the client that the server has nothing more to say, and the server nothing.
    pub(crate) fn half_close(&self) {
        self.ways(Way::Stalled, Way::Ended);
    }

    /// Resets what is connected, and the server does not hear of it; whoever comes then is served.
    pub(crate) fn abandon(&self) {
        let connections = self.connections();
        self.weather.send_modify(|weather| weather.abandoned = connections);
    }

    /// Resets each connection on which the server says this, until [`Proxy::mend`].
    pub(crate) fn poison(&self, words: &'static [u8]) {
        self.fail(words, &[]);
    }

    /// Ends each connection on which the server says this, until [`Proxy::mend`], with other words of the server's.
    pub(crate) fn fail(&self, words: &'static [u8], last: &'static [u8]) {
        self.weather.send_modify(|weather| weather.poison = Some(Poison { words, last }));
    }

    /// From here on what the server says comes at so many bytes a second, over each connection that is not for replication.
    #[allow(dead_code, reason = "a package without such a scenario has this file, too")]
    pub(crate) fn slow(&self, bytes: f64) {
        self.weather.send_modify(|weather| weather.pace = Some(bytes));
    }

    /// Of what comes at a pace so many bytes more may come, and what is behind them waits.
    #[allow(dead_code, reason = "a package without such a scenario has this file, too")]
    pub(crate) fn grant(&self, bytes: u64) {
        let granted = self.paced.load(Ordering::SeqCst) + bytes;
        self.weather.send_modify(|weather| weather.granted = weather.granted.max(Some(granted)));
    }

    /// All is well again; what was held back goes on. What was abandoned stays so.
    pub(crate) fn mend(&self) {
        self.weather
            .send_modify(|weather| *weather = Weather { abandoned: weather.abandoned, ..Weather::default() });
    }

    fn ways(&self, to_server: Way, to_client: Way) {
        self.weather.send_modify(|weather| (weather.to_server, weather.to_client) = (to_server, to_client));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

/// What one direction of one connection has to know.
type Look = fn(&Weather) -> (Way, Option<Poison>, Option<f64>);

async fn connection(
    client: TcpStream,
    target: SocketAddr,
    number: u64,
    mut weather: watch::Receiver<Weather>,
    paced: Arc<AtomicU64>,
) {
    // A reset, which a program sees at once, where an end of the stream could be mistaken for a farewell.
    let _ = client.set_zero_linger();
    let Ok(server) = TcpStream::connect(target).await else { return };
    let _ = server.set_zero_linger();
    let is_stream = is_stream(&client).await;
    // Another handle on the same connection: it stays open after the halves are gone.
    let Ok(handle) = server.as_fd().try_clone_to_owned() else { return };
    // These halves say no farewell when they are dropped.
    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
    let of_client: Look = if is_stream {
        |weather| (weather.to_server, None, None)
    } else {
        |weather| (if weather.only_streams { Way::Open } else { weather.to_server }, None, None)
    };
    let of_server: Look = if is_stream {
        |weather| (weather.to_client, weather.poison, None)
    } else {
        |weather| {
            let way = if weather.only_streams { Way::Open } else { weather.to_client };
            (way, weather.poison, weather.pace)
        }
    };
    let to_server = copy(from_client, to_server, weather.clone(), of_client, &paced);
    let to_client = copy(from_server, to_client, weather.clone(), of_server, &paced);
    let mut down = weather.clone();
    tokio::select! {
        _ = down.wait_for(|weather| weather.down) => return,
        // An error of either side ends both.
        _ = async { tokio::try_join!(to_server, to_client) } => return,
        _ = weather.wait_for(|weather| weather.abandoned >= number) => {}
    }
    let _ = down.wait_for(|weather| weather.down).await;
    drop(handle);
}

/// Whether the client's first words ask for replication. Nothing is taken from what it says.
async fn is_stream(client: &TcpStream) -> bool {
    const WORD: &[u8] = b"replication\0database";
    let mut start = [0; 1024];
    let length = client.peek(&mut start).await.unwrap_or(0);
    start[..length].windows(WORD.len()).any(|part| part == WORD)
}

async fn copy(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut weather: watch::Receiver<Weather>,
    of: Look,
    paced: &AtomicU64,
) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut ends = weather.clone();
    loop {
        let count = tokio::select! {
            count = from.read(&mut buffer) => count?,
            _ = ends.wait_for(|weather| of(weather).0 == Way::Ended) => 0,
        };
        let now = weather.wait_for(|weather| of(weather).0 != Way::Stalled).await.map(|weather| of(&weather));
        let Ok((Way::Open, poison, pace)) = now else { return to.shutdown().await };
        if count == 0 {
            return to.shutdown().await;
        }
        let said = &buffer[..count];
        if let Some(Poison { words, last }) = poison
            && said.windows(words.len()).any(|part| part == words)
        {
            to.write_all(last).await?;
            if last.is_empty() {
                return Err(std::io::ErrorKind::ConnectionReset.into());
            }
            return to.shutdown().await;
        }
        if pace.is_some() {
            let end = paced.fetch_add(count as u64, Ordering::SeqCst) + count as u64;
            let is_granted = |weather: &Weather| weather.granted.is_none_or(|granted| end <= granted);
            let _ = weather.wait_for(is_granted).await;
        }
        to.write_all(said).await?;
        if let Some(pace) = pace {
            tokio::time::sleep(Duration::from_secs_f64(count as f64 / pace)).await;
        }
    }
}
