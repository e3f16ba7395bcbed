"""The API key of these tests, which must stay secret."""

API_KEY = "sk_test_never_to_be_seen_4711"
