//! How librdkafka is configured.

use std::io;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rowcast_engine::{Error, Result};

use crate::config::Config;

/// What a person may change in `[kafka.properties]`.
const DEFAULTS: &[(&str, &str)] = &[
    ("client.id", "rowcast"),
    // A broker that is back is found within about a second, not ten.
    ("reconnect.backoff.max.ms", "1000"),
    ("socket.keepalive.enable", "true"),
    ("compression.type", "lz4"),
    // Fills requests under load and costs no one who notices.
    ("linger.ms", "5"),
    // Records on their way; beyond it the door waits and the journal holds the rest.
    ("queue.buffering.max.kbytes", "32768"),
];

/// What the promises of the door rest on.
const FIXED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("acks", "all"),
    // Nothing that comes after a refused record may be written before it.
    ("enable.gapless.guarantee", "true"),
    // A record that timed out would arrive after those behind it. So none does: order holds through any outage, and
    // the door watches for itself whether Kafka answers.
    ("message.timeout.ms", "0"),
    // Otherwise records without a key would not come to our partitioner.
    ("sticky.partitioning.linger.ms", "0"),
];

/// Other names of the same, and what we depend on librdkafka's default for.
const RESERVED: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("request.required.acks", "acks = all"),
    ("delivery.timeout.ms", "no time limit"),
    ("delivery.report.only.error", "a report for each record"),
    ("partitioner", "the Java client's murmur2"),
    ("transactional.id", "an idempotent producer"),
];

/// Where Kafka is and how to log in; for administration.
pub(crate) fn connection(config: &Config) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", config.brokers.trim());
    for (name, value) in DEFAULTS {
        client.set(*name, *value);
    }
    for (name, value) in &config.properties {
        client.set(name, value);
    }
    client
}

/// The same, and all that a producer of ours has to be.
pub(crate) fn producer(config: &Config) -> ClientConfig {
    let mut client = connection(config);
    for (name, value) in FIXED {
        client.set(*name, *value);
    }
    client
}

/// Refuses properties that would break the door's promises, and those that librdkafka does not know.
pub(crate) fn check(config: &Config) -> Result<()> {
    let fixed = FIXED.iter().map(|(name, value)| (*name, format!("{name} = {value}")));
    let reserved = RESERVED.iter().map(|(name, instead)| (*name, (*instead).to_owned()));
    for (name, instead) in fixed.chain(reserved) {
        if config.properties.contains_key(name) {
            return Err(Error::usage(format!("The Kafka property {name} is not to be set"))
                .hint(format!("Remove it from [kafka.properties]; the Kafka door uses {instead}.")));
        }
    }
    producer(config).create_native_config().map(drop).map_err(|error| refused(&error))
}

/// What librdkafka says about the options, before any connection.
pub(crate) fn refused(error: &KafkaError) -> Error {
    let hint = "Correct [kafka.properties]; the names and values are those of librdkafka's CONFIGURATION.md.";
    match error {
        KafkaError::ClientConfig(_, why, name, _) => {
            Error::usage(format!("Kafka's client refuses the property {name}: {why}")).hint(hint)
        }
        KafkaError::ClientCreation(why) => {
            Error::usage(format!("Kafka's client refuses its options: {why}")).hint(hint)
        }
        other => Error::usage(format!("Kafka's client cannot start: {other}")).hint(hint),
    }
}

/// There is no thread to end a client on.
pub(crate) fn no_thread(error: io::Error) -> Error {
    Error::transient("Cannot start a thread for Kafka's client")
        .because(error)
        .hint("Raise the limit of processes and threads (ulimit -u, TasksMax=).")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What librdkafka makes of it, since an option can change another one.
    #[test]
    fn what_the_promises_rest_on_is_what_the_producer_has() {
        let properties = [("linger.ms".to_owned(), "0".to_owned())].into();
        let config = Config { brokers: "b:1".to_owned(), properties, ..Config::default() };
        let native = producer(&config).create_native_config().unwrap();
        for (name, value) in [
            ("enable.idempotence", "true"),
            ("acks", "-1"),
            ("enable.gapless.guarantee", "true"),
            ("message.timeout.ms", "0"),
            ("linger.ms", "0"),
            ("compression.type", "lz4"),
        ] {
            assert_eq!(native.get(name).unwrap(), value, "{name}");
        }
    }
}
