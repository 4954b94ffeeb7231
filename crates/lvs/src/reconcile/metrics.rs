//! What an exporter of metrics takes as it is.

use super::Status;

/// A number with a name, a unit in it, and what it says: for Prometheus and the like.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, such as `lvs_reconciler_rounds_total`.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// It only grows; otherwise it is a state.
    pub is_counter: bool,
    /// Its value.
    pub value: u64,
}

impl Status {
    /// The numbers in it, with names.
    ///
    /// ```
    /// # let status = lvs::Reconciler::new(lvs::Policy::new()).status().clone();
    /// for metric in status.metrics() {
    ///     println!("# HELP {} {}", metric.name, metric.help);
    ///     println!("# TYPE {} {}", metric.name, if metric.is_counter { "counter" } else { "gauge" });
    ///     println!("{} {}", metric.name, metric.value);
    /// }
    /// ```
    pub fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
        let counter = |name, help, value| Metric { name, help, is_counter: true, value };
        let gauge = |name, help, value| Metric { name, help, is_counter: false, value };
        [
            counter("lvs_reconciler_rounds_total", "Rounds carried out", self.rounds),
            counter(
                "lvs_reconciler_whole_rounds_total",
                "Rounds that read the whole table",
                self.whole_rounds,
            ),
            counter("lvs_reconciler_changes_total", "Changes made", self.changes),
            counter("lvs_reconciler_repairs_total", "Changes that undid others'", self.repairs),
            counter(
                "lvs_reconciler_failures_total",
                "Changes and rounds that failed",
                self.failures,
            ),
            gauge(
                "lvs_reconciler_failed_in_a_row",
                "Rounds that failed since one that did not",
                self.failed_in_a_row.into(),
            ),
            gauge(
                "lvs_reconciler_held_back",
                "Removals that wait for a confirmation",
                self.held_back as u64,
            ),
            gauge("lvs_reconciler_draining", "Real servers being drained", self.draining as u64),
            gauge(
                "lvs_reconciler_generation_in_effect",
                "The last desired state that is in the kernel",
                self.in_effect,
            ),
        ]
        .into_iter()
    }
}
