//! What an error of Kafka means for the sink.

use rdkafka::error::RDKafkaErrorCode as Code;
use rowcast_engine::Error;
use rowcast_engine::sink::SinkError;

use crate::context::{self, Context, Failure};

const GRANT_ON_CLUSTER: &str =
    "Grant IdempotentWrite on the cluster, or Write on its topics, to rowcast's user.";

/// Why a producer that has failed did so; `fatal` is what librdkafka says of it.
pub(crate) fn of_producer(context: &Context, fatal: Option<(Code, String)>) -> SinkError {
    if context.is_lost() {
        let what = "Kafka's client had lost its brokers; what was on its way is sent again by another one";
        return SinkError::Retry(Error::transient(what));
    }
    // A record that was thrown away behind the failure says nothing of it.
    if let Some(failure) = context.failure().filter(|failure| !context::follows(failure.code)) {
        return of_record(&failure);
    }
    let what = "Kafka's client has given up";
    let complained = || context.complaint().map(|complaint| (complaint.code, complaint.reason));
    match fatal.or_else(complained) {
        Some((Code::ClusterAuthorizationFailed, reason)) => {
            SinkError::Stop(Error::failed(what).because(reason).hint(GRANT_ON_CLUSTER))
        }
        Some((_, reason)) => SinkError::Retry(Error::transient(what).because(reason)),
        None => SinkError::Retry(Error::transient(what)),
    }
}

/// A record that was not taken: refused for good, or for now.
pub(crate) fn of_record(failure: &Failure) -> SinkError {
    let Failure { id, topic, size, code } = failure;
    let what = format!("Kafka does not take event {id} on topic {topic} ({size} bytes)");
    match remedy(*code, topic) {
        Some(hint) => SinkError::Stop(Error::failed(what).because(code.to_string()).hint(hint)),
        None => SinkError::Retry(Error::transient(what).because(code.to_string())),
    }
}

/// A record that does not fit even into an empty queue.
pub(crate) fn beyond_queue(id: u64, size: usize) -> SinkError {
    SinkError::Stop(
        Error::failed(format!(
            "Event {id} has a record of {size} bytes, more than the queue of Kafka's client holds"
        ))
        .hint("Raise queue.buffering.max.kbytes in [kafka.properties] above that, and restart rowcast."),
    )
}

/// A topic that could not be created.
pub(crate) fn of_topic(topic: &str, code: Code) -> SinkError {
    let what = format!("Cannot create the Kafka topic {topic}");
    let by_hand = format!("kafka-topics.sh --create --topic {topic}");
    let hint = match code {
        Code::InvalidReplicationFactor => {
            "Set replication_factor in the sink's section to at most the number of brokers.".to_owned()
        }
        Code::InvalidPartitions => {
            "Set partitions in the sink's section to what the cluster allows.".to_owned()
        }
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!("Create it by hand ({by_hand}), or grant Create on it to rowcast's user.")
        }
        Code::PolicyViolation | Code::InvalidConfig => {
            format!(
                "The cluster's policy forbids it: create it by hand ({by_hand}), or set partitions and replication_factor in the sink's section."
            )
        }
        Code::InvalidTopic => "Rename the table or channel, or choose another topic_prefix.".to_owned(),
        _ => return SinkError::Retry(Error::transient(what).because(code.to_string())),
    };
    SinkError::Stop(Error::failed(what).because(code.to_string()).hint(hint))
}

/// What a person has to do; `None` where time may mend it.
fn remedy(code: Code, topic: &str) -> Option<String> {
    Some(match code {
        Code::MessageSizeTooLarge | Code::MessageBatchTooLarge | Code::InvalidMessageSize => format!(
            "Raise max.message.bytes of the topic (kafka-configs.sh --alter --topic {topic} \
             --add-config max.message.bytes=…) above its size, and message.max.bytes in [kafka.properties], which takes a restart."
        ),
        Code::TopicAuthorizationFailed => {
            format!("Grant Write and Describe on {topic} to rowcast's user.")
        }
        Code::ClusterAuthorizationFailed => GRANT_ON_CLUSTER.to_owned(),
        Code::InvalidTopic => "Rename the table or channel, or choose another topic_prefix.".to_owned(),
        Code::InvalidMessage | Code::InvalidRecord | Code::PolicyViolation => {
            format!("Look at what {topic} accepts (a compacted topic takes no record without a key).")
        }
        Code::UnsupportedCompressionType | Code::UnsupportedForMessageFormat => {
            "Choose another compression.type in [kafka.properties].".to_owned()
        }
        _ => return None,
    })
}

/// What to do about a connection that fails in this way; `None` where waiting is all.
pub(crate) fn connection_remedy(code: Code) -> Option<&'static str> {
    match code {
        Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => {
            Some("Look at security.protocol and sasl.* in [kafka.properties]")
        }
        Code::SSL => Some("Look at security.protocol and ssl.* in [kafka.properties]"),
        Code::Resolve => {
            Some("Look at brokers in the sink's section, and at advertised.listeners of the broker")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_was_given_up_refused_nothing() {
        let context = Context::default();
        context.give_up();
        let SinkError::Retry(error) = of_producer(&context, None) else { panic!("for good") };
        assert!(error.to_string().starts_with("Kafka's client had lost its brokers"), "{error}");
    }

    #[test]
    fn refusals_name_event_and_topic_and_the_remedy() {
        let failure = |code| Failure { id: 17, topic: "app.public.t".to_owned(), size: 2_000_000, code };
        let SinkError::Stop(error) = of_record(&failure(Code::MessageSizeTooLarge)) else {
            panic!("not for good")
        };
        assert!(
            error
                .to_string()
                .starts_with("Kafka does not take event 17 on topic app.public.t (2000000 bytes): "),
            "{error}"
        );
        assert!(error.remedy().unwrap().starts_with("Raise max.message.bytes"));
        for passing in [Code::UnknownTopicOrPartition, Code::NotEnoughReplicas, Code::Fatal, Code::PurgeQueue]
        {
            assert!(matches!(of_record(&failure(passing)), SinkError::Retry(_)), "{passing:?}");
        }
        assert!(matches!(of_topic("t", Code::TopicAuthorizationFailed), SinkError::Stop(_)));
        assert!(matches!(of_topic("t", Code::RequestTimedOut), SinkError::Retry(_)));
    }
}
