//! What needs no node: translation, its laws, and sources.

#[cfg(feature = "kubernetes")]
mod api_client;
#[cfg(feature = "kubernetes")]
mod api_server;
#[path = "../../tests/cases/mod.rs"]
mod cases;
mod conformance;
#[cfg(feature = "kubernetes")]
#[path = "../../tests/control_plane/mod.rs"]
mod control_plane;
mod directory;
#[cfg(feature = "kubernetes")]
mod fake_server;
mod laws;
mod limits;
