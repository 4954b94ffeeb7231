//! What has to be done so that the table becomes what it should be.

mod change;
mod display;
#[cfg(test)]
mod laws;
pub(crate) mod planner;
#[cfg(feature = "serde")]
mod serialize;
mod value;

pub use self::{
    change::{Action, Change, Phase},
    display::{CommandLines, Diff},
    value::Plan,
};
