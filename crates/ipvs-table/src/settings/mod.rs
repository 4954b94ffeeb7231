//! Every setting of a service and of a real server, stated once: its name and its value in words, its
//! options, and its field in documents. What compares, reads and writes tables goes along these lists.

mod real_server;
mod service;

pub(crate) use self::{
    real_server::{REAL_SERVER, REAL_SERVER_OPTIONS},
    service::{LONGEST_TIMEOUT, SERVICE, SERVICE_OPTIONS},
};

#[cfg(feature = "serde")]
use crate::document::{Node, Reader};
use crate::{
    Mistake,
    options::{Given, Opt},
};

/// A setting of a service or a real server.
pub(crate) struct Setting<T: 'static> {
    /// What it is called where two tables differ.
    pub(crate) name: &'static str,
    /// Its value in words.
    pub(crate) words: fn(&T) -> String,
    pub(crate) is_same: fn(&T, &T) -> bool,
    /// What `ipvsadm -L` prints for it behind everything else.
    pub(crate) listed: fn(&T) -> Option<&'static str>,
    /// Its option, unless it takes several to say it.
    pub(crate) option: Option<OptionReader<T>>,
    /// Its field in a document, unless it is part of another one's.
    #[cfg(feature = "serde")]
    pub(crate) field: Option<Field<T>>,
}

pub(crate) struct OptionReader<T: 'static> {
    pub(crate) option: Opt,
    pub(crate) read: fn(&Given<'_>, &mut T) -> Result<(), Mistake>,
}

#[cfg(feature = "serde")]
pub(crate) struct Field<T: 'static> {
    pub(crate) name: &'static str,
    pub(crate) is_required: bool,
    /// `None` where it has its default.
    pub(crate) write: fn(&T) -> Option<Node>,
    pub(crate) read: fn(&mut Reader, (String, Node), &mut T),
}

/// The names of the fields.
#[cfg(feature = "serde")]
pub(crate) fn fields<T>(settings: &[Setting<T>]) -> impl Iterator<Item = &'static str> {
    settings.iter().filter_map(|setting| setting.field.as_ref()).map(|field| field.name)
}

/// `none` for 0.
fn limit(limit: u32) -> String {
    if limit == 0 { "none".to_owned() } else { limit.to_string() }
}
