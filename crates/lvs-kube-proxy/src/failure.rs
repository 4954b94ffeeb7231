//! What fails, and at which step.

use std::fmt;

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// A step that failed, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub(crate) step: Step,
    reason: String,
}

/// What the proxy was about when something failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Lock,
    Ledger,
    Links,
    Settings,
    TimeOuts,
    Addresses,
    Routes,
    Rules,
    Table,
    Conntrack,
    Listen,
    Lists,
}

impl Failure {
    pub(crate) fn new(step: Step, reason: impl fmt::Display) -> Self {
        Self { step, reason: reason.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}

impl Step {
    /// Its name in the metrics.
    fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "lock",
            Self::Ledger => "state",
            Self::Links => "links",
            Self::Settings => "settings",
            Self::TimeOuts => "time-outs",
            Self::Addresses => "addresses",
            Self::Routes => "routes",
            Self::Rules => "netfilter",
            Self::Table => "ipvs",
            Self::Conntrack => "conntrack",
            Self::Listen => "listen",
            Self::Lists => "lists",
        }
    }
}

impl EncodeLabelValue for Step {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}
