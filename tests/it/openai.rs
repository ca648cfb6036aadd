//! The backend for OpenAI-compatible servers, against servers that misbehave.
