//! The adversary: peers that forge, replay, flood, lie and steal, against the real programs over real
//! WebSockets, with play money. After each attack, ledger and bank agree to the millisatoshi, and honest
//! peers are served.

mod channel;
mod customers;
mod delivery;
mod floods;
mod invoices;
mod listings;
mod records;
mod seals;
