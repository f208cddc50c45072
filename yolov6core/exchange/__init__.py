"""The form of exported files, which their writers and the engines agree on: interface, notes, graph, comparison."""
