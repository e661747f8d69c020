"""What is asked of a run or a program from outside: dry runs, HLO, parity with references."""
