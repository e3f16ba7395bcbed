"""The one workspace and its one project."""

WORKSPACE_ID = "ws_emulator"
PROJECT_ID = "prj_emulator"
