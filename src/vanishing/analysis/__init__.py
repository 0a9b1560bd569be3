"""What is measured along a trajectory once a run is trained."""
