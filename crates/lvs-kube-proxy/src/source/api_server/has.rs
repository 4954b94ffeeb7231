//! What a server has, by its version and what it says.

use kube::Client;

/// The first Kubernetes 1.x whose lists come as a stream by default.
const STREAMS: u32 = 34;
/// The first whose service ranges are objects.
const RANGES: u32 = 31;

/// What a server has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Has {
    /// The version of EndpointSlices.
    pub(super) slices: &'static str,
    /// Whether lists come as a stream.
    pub(super) streams: bool,
    /// The version of ServiceCIDRs, if there are such.
    pub(super) ranges: Option<&'static str>,
}

/// Asks a server what it has.
pub(super) async fn look(client: &Client) -> Result<Has, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let versions = groups.iter().filter(|group| group.name == "discovery.k8s.io");
    let has_v1 = versions.flat_map(|group| &group.versions).any(|version| version.version == "v1");
    let version = client.apiserver_version().await?;
    let digits = version.minor.find(|c: char| !c.is_ascii_digit()).unwrap_or(version.minor.len());
    let minor: u32 = version.minor[..digits].parse().unwrap_or_default();
    let networking = groups.iter().filter(|group| group.name == "networking.k8s.io");
    let versions: Vec<_> = networking.flat_map(|group| &group.versions).collect();
    let mut ranges = None;
    for version in ["v1", "v1beta1"] {
        let is_there = versions.iter().any(|found| found.version == version);
        if minor >= RANGES && ranges.is_none() && is_there {
            let group = format!("networking.k8s.io/{version}");
            let found = client.list_api_group_resources(&group).await?.resources;
            ranges = found.iter().any(|found| found.name == "servicecidrs").then_some(version);
        }
    }
    let slices = if has_v1 { "v1" } else { "v1beta1" };
    Ok(Has { slices, streams: minor >= STREAMS, ranges })
}
