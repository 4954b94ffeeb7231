//! What a source says.

use crate::object::{EndpointSlice, Node, ObjectName, Service};

/// What a source says. Events of different objects may come in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// All Services that there are. Others are gone.
    Services(Vec<Service>),
    /// All EndpointSlices that there are. Others are gone.
    Slices(Vec<EndpointSlice>),
    /// A Service is new or has changed.
    Service(Service),
    /// A Service is gone.
    ServiceGone(ObjectName),
    /// An EndpointSlice is new or has changed.
    Slice(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceGone(ObjectName),
    /// A Node is new or has changed: the proxy's own, or another one, whose addresses services then
    /// cannot have.
    Node(Node),
    /// A Node is gone. An API server says so.
    #[cfg_attr(
        not(any(test, feature = "kubernetes")),
        expect(dead_code, reason = "a file that goes leaves a Node of which nothing is known")
    )]
    NodeGone(String),
}
