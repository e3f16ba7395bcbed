"""The API key of these tests, which must stay secret."""

API_KEY = "sk_test_that_must_not_be_seen_anywhere"
