//! The metrics of captures, as a monitor has them.

use std::cell::OnceCell;
use std::mem;

use metrics::set_default_local_recorder;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

thread_local! {
    /// Tests run beside each other, and each in a thread of its own.
    static RECORDED: OnceCell<PrometheusHandle> = const { OnceCell::new() };
}

/// Records what this thread tells from here on. A runtime of several threads tells the rest to nobody.
pub(super) fn record() {
    RECORDED.with(|recorded| {
        recorded.get_or_init(|| {
            let recorder: &'static _ = Box::leak(Box::new(PrometheusBuilder::new().build_recorder()));
            // Until the thread ends.
            mem::forget(set_default_local_recorder(recorder));
            recorder.handle()
        });
    });
}

/// A counter without labels.
pub(super) fn counted(counter: &str) -> u64 {
    let text = RECORDED.with(|recorded| recorded.get().map(PrometheusHandle::render)).unwrap_or_default();
    let sample = text.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(' '));
    sample.map_or(0, |count| count.parse().unwrap())
}

/// A gauge without labels; `None` where nobody has told it.
pub(super) fn shown(gauge: &str) -> Option<f64> {
    let text = RECORDED.with(|recorded| recorded.get().map(PrometheusHandle::render)).unwrap_or_default();
    let sample = text.lines().find_map(|line| line.strip_prefix(gauge)?.strip_prefix(' '));
    sample.map(|sample| sample.parse().unwrap())
}

/// Which value of its label a gauge is 1 for. For each of `known`, and for nothing else, there has to be one, and all but
/// one have to be 0.
pub(super) fn one_of(gauge: &str, label: &str, known: &[&str]) -> Option<String> {
    let text = RECORDED.with(|recorded| recorded.get().map(PrometheusHandle::render)).unwrap_or_default();
    let start = format!("{gauge}{{{label}=\"");
    let samples: Vec<(&str, &str)> =
        text.lines().filter_map(|line| line.strip_prefix(&start)?.split_once("\"} ")).collect();
    let mut found: Vec<&str> = samples.iter().map(|(value, _)| *value).collect();
    let mut known = known.to_vec();
    found.sort_unstable();
    known.sort_unstable();
    assert_eq!(found, known, "{gauge}");
    let set: Vec<&str> =
        samples.iter().filter(|(_, sample)| *sample == "1").map(|(value, _)| *value).collect();
    assert!(set.len() <= 1 && samples.iter().all(|(_, sample)| matches!(*sample, "0" | "1")), "{samples:?}");
    set.first().map(|value| (*value).to_owned())
}
