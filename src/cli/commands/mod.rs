//! One file for each command of the two programs.

mod books;
pub mod budget;
pub mod buy;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod earnings;
pub mod history;
pub mod identity;
pub mod jobs;
pub mod man;
pub mod providers;
pub mod receipt;
mod record;
pub mod recover;
pub mod relay;
pub mod serve;
pub mod show;
pub mod wallet;
