//! A real Kafka broker, and an independent reader of its topics.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rustix::process::Signal;
use serde_json::Value;
use tokio::sync::{OnceCell, mpsc};

use super::port::free_port;
use super::process::{Directory, Launch, Process, run, tail};
use super::{KAFKA, SOON, wait_for};

/// Topics are rowcast's to create: a broker that makes them up would hide that it does not.
const SETTINGS: &str = "
process.roles=broker,controller
node.id=1
controller.listener.names=CONTROLLER
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
";

const LOG_SETTINGS: &str = "
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d %p %m (%c)%n
";

/// Small and quickly up, on a machine that it shares with everything else.
const JAVA: &[&str] = &["java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];

/// A broker: of the tests, or the one that `ROWCAST_TEST_KAFKA` names.
pub(crate) struct Kafka {
    brokers: String,
    local: Option<(Option<Process>, Directory)>,
}

impl Kafka {
    /// The broker that most tests share, each under a topic prefix of its own (see [`Kafka::prefix`]).
    pub(crate) async fn shared() -> &'static Self {
        static SHARED: OnceCell<Kafka> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                match std::env::var(KAFKA) {
                    Ok(brokers) => Self { brokers, local: None },
                    Err(_) => Self::start().await,
                }
            })
            .await
    }

    /// A broker of the test's own.
    pub(crate) async fn start() -> Self {
        let controller = free_port();
        Self::start_at(controller, controller, "").await
    }

    /// With its controller on one port, which it seeks at another one, and more settings.
    pub(crate) async fn start_at(controller: u16, sought: u16, more: &str) -> Self {
        let directory = Directory::new("kafka");
        let (port, path) = (free_port(), directory.path());
        let settings = format!(
            "{SETTINGS}controller.quorum.voters=1@127.0.0.1:{sought}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\n{more}\n",
            path.join("data").display()
        );
        std::fs::write(path.join("server.properties"), settings).expect("a file");
        std::fs::write(path.join("log4j2.properties"), LOG_SETTINGS).expect("a file");
        let format = ["kafka.tools.StorageTool", "format", "-t", "5L6g3nShT-eMCtK--X86sw", "-c"];
        run(&java(path, &format));
        let mut kafka = Self { brokers: format!("127.0.0.1:{port}"), local: Some((None, directory)) };
        kafka.resume().await;
        kafka
    }

    /// `HOST:PORT`.
    pub(crate) fn brokers(&self) -> &str {
        &self.brokers
    }

    /// A topic prefix that nobody else has.
    pub(crate) fn prefix(&self, test: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // A broker that outlives the tests holds topics of other runs, too.
        format!("{test}-{:08x}-{count}", rand::random::<u32>())
    }

    /// Starts a stopped broker again, on the same port, and waits until it answers.
    pub(crate) async fn resume(&mut self) {
        let (process, directory) = self.local.as_mut().expect("a broker of the test's own");
        let log = directory.path().join("kafka.log");
        *process = None;
        let command = java(directory.path(), &["kafka.Kafka"]);
        let directory = directory.path();
        let launch = Launch { command: &command, env: &[], log: &log, last_signal: "KILL", directory };
        let process = process.insert(Process::start(&launch));
        let port = self.brokers.clone();
        wait_for("Kafka to listen", SOON * 9, async || {
            assert!(process.ended().is_none(), "Kafka ended: {}", tail(&log));
            tokio::net::TcpStream::connect(&port).await.map_err(|error| error.to_string())
        })
        .await;
        let brokers = self.brokers.clone();
        // At first its answers name no broker: its cluster has not let it in yet.
        wait_for("Kafka to name itself", SOON * 9, async || {
            let brokers = brokers.clone();
            let asked = tokio::task::spawn_blocking(move || {
                let consumer: BaseConsumer =
                    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a consumer");
                consumer.fetch_metadata(None, SOON).map(|metadata| metadata.brokers().len())
            });
            match asked.await.expect("no panic") {
                Ok(1..) => Ok(()),
                answer => Err(format!("{answer:?}: {}", tail(&log))),
            }
        })
        .await;
    }

    /// Stops it in order; its data stay.
    pub(crate) async fn stop(&mut self) {
        self.end(Signal::TERM).await;
    }

    /// SIGKILL.
    pub(crate) async fn kill(&mut self) {
        self.end(Signal::KILL).await;
    }

    /// Stops it where it stands: connections stay open, nothing is answered, until [`Kafka::thaw`].
    pub(crate) fn freeze(&mut self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&mut self) {
        self.signal(Signal::CONT);
    }

    fn signal(&mut self, signal: Signal) {
        if let Some((Some(process), _)) = &mut self.local {
            process.signal(signal);
        }
    }

    async fn end(&mut self, signal: Signal) {
        if let Some((Some(process), _)) = &mut self.local {
            process.signal(signal);
            process.wait(Duration::from_mins(1)).await;
        }
    }

    /// Stops it in order and starts it again.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.resume().await;
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        if let (true, Some((_, directory))) = (std::thread::panicking(), &self.local) {
            println!("--- kafka.log\n{}", tail(&directory.path().join("kafka.log")));
        }
    }
}

/// A Java command over Kafka's jars; `server.properties` of the directory comes last.
fn java(directory: &Path, class: &[&str]) -> Vec<String> {
    let libs = libs();
    assert!(libs.is_dir(), "No Kafka in {}: run scripts/install-kafka.sh", libs.display());
    let logging = format!("-Dlog4j2.configurationFile={}", directory.join("log4j2.properties").display());
    let classpath = format!("{}/*", libs.display());
    let settings = directory.join("server.properties").display().to_string();
    let parts = [JAVA, &[&logging, "-cp", &classpath], class, &[&settings]].concat();
    parts.into_iter().map(ToOwned::to_owned).collect()
}

/// In the workspace, whichever of its packages is under test.
fn libs() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let libs = |directory: &Path| directory.join(".cache/kafka/libs");
    package.ancestors().map(libs).find(|libs| libs.is_dir()).unwrap_or_else(|| libs(package))
}

/// A record as it lies on a topic.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    /// The topic's full name.
    pub(crate) topic: String,
    /// The partition.
    pub(crate) partition: i32,
    /// The offset.
    pub(crate) offset: i64,
    /// The key, null when absent.
    pub(crate) key: Value,
    /// The value; `None` for a tombstone.
    pub(crate) value: Option<Value>,
    /// Headers, as text.
    pub(crate) headers: BTreeMap<String, String>,
    /// Milliseconds since 1970.
    pub(crate) timestamp: Option<i64>,
}

/// Reads every partition of every topic under a prefix from the beginning, topics created later included.
pub(crate) struct KafkaReader {
    records: mpsc::Receiver<Record>,
    stop: Arc<AtomicBool>,
}

impl KafkaReader {
    /// Records that wait for the test; then the reader does.
    const WAITING: usize = 1024;

    /// Starts to read the topics `{prefix}.…`, committed records only.
    pub(crate) fn start(kafka: &Kafka, prefix: &str) -> Self {
        let (sender, records) = mpsc::channel(Self::WAITING);
        let stop = Arc::new(AtomicBool::new(false));
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", kafka.brokers())
            .set("group.id", prefix)
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "20");
        let mut reading = Reading {
            config,
            prefix: format!("{prefix}."),
            stop: Arc::clone(&stop),
            sender,
            next: BTreeMap::new(),
        };
        std::thread::spawn(move || while reading.with_a_consumer() {});
        Self { records, stop }
    }

    /// The next record; `None` when none came in time.
    pub(crate) async fn next(&mut self, deadline: Duration) -> Option<Record> {
        tokio::time::timeout(deadline, self.records.recv()).await.ok()?
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// What a reader's thread has.
struct Reading {
    config: ClientConfig,
    prefix: String,
    stop: Arc<AtomicBool>,
    sender: mpsc::Sender<Record>,
    /// The offset that comes next in each partition.
    next: BTreeMap<(String, i32), i64>,
}

impl Reading {
    /// Questions of two seconds each.
    const UNANSWERED: u32 = 2;

    /// Reads with a consumer of its own until the broker has been away and is back, or answers no more. Gives whether to
    /// go on with another one: librdkafka 2.12 forgets a broker that was not there for a moment, and asks it nothing any
    /// more (as rowcast's own client, see `connectors/kafka/src/monitor.rs`).
    fn with_a_consumer(&mut self) -> bool {
        let consumer: BaseConsumer = self.config.create().expect("a consumer");
        let (mut assigned, mut shaken, mut unanswered) = (BTreeSet::new(), false, 0);
        while !self.stop.load(Ordering::Relaxed) {
            if self.assign_new(&consumer, &mut assigned) {
                unanswered = 0;
                if shaken {
                    return true;
                }
            } else {
                unanswered += 1;
                if unanswered == Self::UNANSWERED {
                    return true;
                }
            }
            let round = std::time::Instant::now();
            while round.elapsed() < Duration::from_millis(300) && !self.stop.load(Ordering::Relaxed) {
                match consumer.poll(Duration::from_millis(50)) {
                    Some(Ok(message)) => {
                        let place = (message.topic().to_owned(), message.partition());
                        self.next.insert(place, message.offset() + 1);
                        if self.sender.blocking_send(record(&message)).is_err() {
                            return false;
                        }
                    }
                    Some(Err(_)) => shaken = true,
                    None => {}
                }
            }
        }
        false
    }

    /// Adds the partitions that appeared since the last look. Whether the broker has answered.
    fn assign_new(&self, consumer: &BaseConsumer, assigned: &mut BTreeSet<(String, i32)>) -> bool {
        let Ok(metadata) = consumer.fetch_metadata(None, Duration::from_secs(2)) else { return false };
        let mut fresh = TopicPartitionList::new();
        for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(&self.prefix)) {
            for partition in topic.partitions() {
                let place = (topic.name().to_owned(), partition.id());
                let offset = self.next.get(&place).map_or(Offset::Beginning, |next| Offset::Offset(*next));
                if assigned.insert(place) {
                    fresh.add_partition_offset(topic.name(), partition.id(), offset).expect("a valid offset");
                }
            }
        }
        if fresh.count() > 0 {
            consumer.incremental_assign(&fresh).expect("an assignment");
        }
        true
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let json = |bytes: &[u8]| {
        serde_json::from_slice(bytes).unwrap_or_else(|error| {
            panic!("{}: {error}: {}", message.topic(), String::from_utf8_lossy(bytes))
        })
    };
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    Record {
        topic: message.topic().to_owned(),
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map_or(Value::Null, json),
        value: message.payload().map(json),
        headers: headers
            .map(|header| {
                let value = header.value.unwrap_or_default();
                (header.key.to_owned(), String::from_utf8_lossy(value).into_owned())
            })
            .collect(),
        timestamp: message.timestamp().to_millis(),
    }
}
